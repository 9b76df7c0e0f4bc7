"""What a task is: which samples belong to it, and how it shows them.

The tasks of a benchmark are a pytree with a leading task axis, made on the host and handed to jitted functions, so
that a chunk of tasks is trained by `vmap`. The data set is shared by all of them and lies on the device as uint8.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, PyTree, UInt8

from supsup_jax.data.arrays import Dataset, Split

Tasks = PyTree[Array | np.ndarray]
"""What describes tasks: leaves with a leading task axis; without it, one task."""


@dataclass(frozen=True)
class Benchmark(ABC):
    """A family of tasks over one data set. Instances are hashable and hold no arrays.

    Attributes:
        train_size: training samples of a task.
        test_size: test samples of a task.
        num_classes: classes of a task; labels are 0 to `num_classes - 1`.
        image_shape: `(height, width, channels)`.
        mean: for each channel, subtracted from images scaled to [0, 1].
        std: for each channel, what they are then divided by.
    """

    train_size: int
    test_size: int
    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @abstractmethod
    def tasks(self, seed: int, numbers: Sequence[int]) -> Tasks:
        """Describes tasks.

        Args:
            seed: the experiment's seed.
            numbers: which tasks.

        Returns:
            A pytree whose leaves have a leading axis, one entry a task.
        """

    @abstractmethod
    def samples(
        self, split: Split, task: Tasks, rows: Int[Array | np.ndarray, " batch"]
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """Samples as the task shows them, inside a jitted function.

        Args:
            split: the training or test samples of the data set.
            task: what describes the task.
            rows: numbers below `train_size` or `test_size`.

        Returns:
            Normalised images and their labels.
        """

    def normalise(
        self, images: UInt8[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Images of 0 to 255 with the data set's mean subtracted, divided by its standard deviation."""
        scale = 1 / (255 * np.asarray(self.std, np.float32))
        shift = np.asarray(self.mean, np.float32) / np.asarray(self.std, np.float32)
        return images.astype(jnp.float32) * scale - shift


@dataclass(frozen=True)
class PermutedMNIST(Benchmark):
    """Every task is all of MNIST (or of another data set) with the pixels in an order of its own."""

    @classmethod
    def of(cls, dataset: Dataset) -> "PermutedMNIST":
        """The benchmark over a data set."""
        sizes = len(dataset.train.labels), len(dataset.test.labels), dataset.num_classes
        return cls(*sizes, dataset.image_shape, dataset.mean, dataset.std)

    def tasks(self, seed: int, numbers: Sequence[int]) -> Int32[np.ndarray, "tasks pixels"]:
        """Pixel maps: pixel p of task i is pixel `map[i, p]` of the image.

        They are the original's, `RandomState(i + seed).permutation(pixels)`, so task 1 of seed 1 is task 0 of
        seed 2: seeds that differ by less than the number of tasks share tasks.
        """
        pixels = int(np.prod(self.image_shape))
        maps = [np.random.RandomState(number + seed).permutation(pixels) for number in numbers]
        return np.asarray(maps, np.int32)

    def samples(
        self, split: Split, task: Int[Array | np.ndarray, " pixels"], rows: Int[Array | np.ndarray, " batch"]
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """All samples, permuted. A pixel map's entry beyond the last pixel reads 0."""
        flat = jnp.asarray(split.images)[rows].reshape(len(rows), -1)
        images = jnp.take(flat, task, axis=1, mode="fill", fill_value=0)
        return self.normalise(images.reshape(-1, *self.image_shape)), jnp.asarray(split.labels)[rows]
