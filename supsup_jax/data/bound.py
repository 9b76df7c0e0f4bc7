"""Benchmarks that task families create over a loaded data set."""

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
    """Tasks that each permute the pixels differently."""

    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Int32[np.ndarray, "tasks pixels"]:
        """Return pixel maps: pixel p of task i is pixel `map[i, p]` of the image.

        The maps are those of the original code, `RandomState(i + seed).permutation(pixels)`. Task 1 of seed 1 is
        therefore task 0 of seed 2: seeds that differ by less than the number of tasks share tasks.
        """
        pixels = int(np.prod(self.image_shape[:-1]))
        maps = np.empty((len(numbers), pixels), np.int32)  # fails at once if memory is short
        for place, number in enumerate(numbers):
            maps[place] = np.random.RandomState(number + seed).permutation(pixels)
        return maps


@dataclass(frozen=True)
class RotatedPixels(PixelMapBenchmark):
    """Tasks that each rotate the images by a different angle.

    Attributes:
        degrees: angle between consecutive tasks.
    """

    degrees: int

    @property
    def max_tasks(self) -> int:
        """Number of tasks that fill the circle."""
        return 360 // self.degrees

    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Int32[np.ndarray, "tasks pixels"]:
        """Return pixel maps: task i rotates images by `i * degrees` counter-clockwise, to the nearest pixel.

        Pixels from outside the image are 0. The maps are Pillow's rotations of an image of pixel numbers.
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
    """Tasks that each have some of the classes, assigned in the order `class_order`.

    Attributes:
        class_order: see `Split`.
        relabel: see `Split`.
        augment: see `Split`.
    """

    class_order: Order | tuple[int, ...]
    relabel: bool
    augment: Augmentation | None

    def order(self, seed: int) -> Int[np.ndarray, " classes"]:
        """Return the classes of the data set in the order in which they are assigned to tasks."""
        if isinstance(self.class_order, tuple):
            return np.array(self.class_order)
        if self.class_order == "given":
            return np.arange(self.dataset_classes)
        return np.random.RandomState(seed if self.class_order == "drawn" else _FIXED_SEED).permutation(
            self.dataset_classes
        )

    def labels(self, classes: Int[np.ndarray, "tasks classes_per_task"]) -> Int[np.ndarray, "tasks classes"]:
        """Return each class's label in each task: its position in the task, or the class itself without `relabel`."""
        if self.relabel:
            return super().labels(classes)
        return np.tile(np.arange(self.dataset_classes), (len(classes), 1))

    def show(
        self, images: PyTree[Array], keys: Key[Array, " batch"] | None
    ) -> UInt8[Array, "batch height width channels"] | Float[Array, "batch height width channels"]:
        """Return the images as the network sees them, before normalisation."""
        if self.augment == "resized_crop":
            size, _, _ = self.image_shape
            return centre_crop(images, size) if keys is None else random_resized_crop(images, keys, size)
        if self.augment == "crop_flip" and keys is not None:
            return crop_and_flip(images, keys, padding=_PADDING)
        return images
