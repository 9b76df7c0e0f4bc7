"""The benchmarks that families make over a loaded data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Array, Float, Int, Int32, Key, PyTree, UInt8
from PIL import Image

from supsup_jax.data.arrays import Dataset
from supsup_jax.data.augmentation import centre_crop, crop_and_flip, random_resized_crop
from supsup_jax.data.tasks import ClassSplit, PixelMapBenchmark

_PADDING = 4
_FIXED_SEED = 1


@dataclass(frozen=True)
class PermutedPixels(PixelMapBenchmark):
    """Every task shows the pixels in another order."""

    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Int32[np.ndarray, "tasks pixels"]:
        """Pixel maps: pixel p of task i is pixel `map[i, p]` of the image.

        They are the original's, `RandomState(i + seed).permutation(pixels)`, so task 1 of seed 1 is task 0 of
        seed 2: seeds that differ by less than the number of tasks share tasks.
        """
        pixels = int(np.prod(self.image_shape[:-1]))
        maps = np.empty((len(numbers), pixels), np.int32)  # more than fit in memory are refused here at once
        for place, number in enumerate(numbers):
            maps[place] = np.random.RandomState(number + seed).permutation(pixels)
        return maps


@dataclass(frozen=True)
class RotatedPixels(PixelMapBenchmark):
    """Every task turns the images by another angle.

    Attributes:
        degrees: between a task and the next.
    """

    degrees: int

    @property
    def max_tasks(self) -> int:
        """How many tasks fill the circle."""
        return 360 // self.degrees

    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Int32[np.ndarray, "tasks pixels"]:
        """Pixel maps: task i turns by `i * degrees` counter-clockwise, to the nearest pixel.

        What comes from outside the image reads 0. The maps are what Pillow makes of an image of pixel numbers.
        """
        height, width, _ = self.image_shape
        numbered = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
        turned = [
            Image.fromarray(numbered).rotate(number * self.degrees, Image.Resampling.NEAREST) for number in numbers
        ]
        maps = np.stack([np.asarray(image).reshape(-1) for image in turned])
        return np.where(maps == 0, height * width, maps - 1).astype(np.int32)


Order = Literal["given", "drawn", "fixed"]
Augmentation = Literal["crop_flip", "resized_crop"]


@dataclass(frozen=True)
class SplitClasses(ClassSplit):
    """Every task has a few of the classes, in an order that the family says.

    Attributes:
        class_order: see `Split`.
        relabel: see `Split`.
        augment: see `Split`.
    """

    class_order: Order
    relabel: bool
    augment: Augmentation | None

    def order(self, seed: int) -> Int[np.ndarray, " classes"]:
        """The classes of the data set, as the tasks take them one after another."""
        if self.class_order == "given":
            return np.arange(self.dataset_classes)
        return np.random.RandomState(seed if self.class_order == "drawn" else _FIXED_SEED).permutation(
            self.dataset_classes
        )

    def labels(self, classes: Int[np.ndarray, "tasks own"]) -> Int[np.ndarray, "tasks classes"]:
        """The label that each class has in each task: its position in the task, or as it is."""
        if self.relabel:
            return super().labels(classes)
        return np.tile(np.arange(self.dataset_classes), (len(classes), 1))

    def show(
        self, images: PyTree[Array], keys: Key[Array, " batch"] | None
    ) -> UInt8[Array, "batch height width channels"] | Float[Array, "batch height width channels"]:
        """Images as the network sees them, before they are normalised."""
        if self.augment == "resized_crop":
            size, _, _ = self.image_shape
            return centre_crop(images, size) if keys is None else random_resized_crop(images, keys, size)
        if self.augment == "crop_flip" and keys is not None:
            return crop_and_flip(images, keys, padding=_PADDING)
        return images
