"""What a task is: which samples belong to it, and how it shows them.

The tasks of a benchmark are a pytree with a leading task axis, made on the host and handed to jitted functions, so
that a chunk of tasks is trained by `vmap`. The data set is shared by all of them and lies on the device as uint8.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, PyTree, UInt8
from PIL import Image

from supsup_jax.data.arrays import Dataset, Split

Tasks = PyTree[Array | np.ndarray]
"""What describes tasks: leaves with a leading task axis; without it, one task."""


@dataclass(frozen=True)
class Benchmark(ABC):
    """A family of tasks over one data set. Instances are hashable and hold no arrays.

    Attributes:
        train_size: training samples of a task, or of the largest.
        test_size: test samples of a task, or of the largest.
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

    @property
    def max_tasks(self) -> int | None:
        """How many tasks there are; nothing where there is no end of them."""
        return None

    @abstractmethod
    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Tasks:
        """Describes tasks.

        Args:
            dataset: the data set that the benchmark is over.
            seed: the experiment's seed.
            numbers: which tasks.

        Returns:
            A pytree whose leaves have a leading axis, one entry a task.
        """

    def size(self, task: Tasks, train: bool) -> int | Int[Array, ""]:
        """How many training or test samples a task has: `train_size` or `test_size`, or fewer."""
        return self.train_size if train else self.test_size

    @abstractmethod
    def samples(
        self, split: Split, task: Tasks, rows: Int[Array | np.ndarray, " batch"], train: bool
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """Samples as the task shows them, inside a jitted function.

        Args:
            split: the training or test samples of the data set.
            task: what describes the task.
            rows: numbers below the task's `size`; beyond it samples are any.
            train: whether it is the training split.

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
class PixelMapBenchmark(Benchmark):
    """Every task is the whole data set with its pixels elsewhere: a pixel map of its own says where."""

    @classmethod
    def of(cls, dataset: Dataset, **settings: Any) -> "PixelMapBenchmark":
        """The benchmark over a data set.

        Args:
            dataset: its images all have one shape.
            settings: the fields that a benchmark has of its own.
        """
        sizes = len(dataset.train.labels), len(dataset.test.labels), dataset.num_classes
        return cls(*sizes, dataset.image_shape, dataset.mean, dataset.std, **settings)

    def samples(
        self,
        split: Split,
        task: Int[Array | np.ndarray, " pixels"],
        rows: Int[Array | np.ndarray, " batch"],
        train: bool,
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """The images through the task's pixel map, an entry of which beyond the last pixel reads 0."""
        flat = jnp.asarray(split.images)[rows].reshape(len(rows), -1, self.image_shape[-1])
        images = jnp.take(flat, task, axis=1, mode="fill", fill_value=0)
        return self.normalise(images.reshape(-1, *self.image_shape)), jnp.asarray(split.labels)[rows]


@dataclass(frozen=True)
class PermutedMNIST(PixelMapBenchmark):
    """Every task shows the pixels in an order of its own (MNISTPerm in the paper)."""

    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Int32[np.ndarray, "tasks pixels"]:
        """Pixel maps: pixel p of task i is pixel `map[i, p]` of the image.

        They are the original's, `RandomState(i + seed).permutation(pixels)`, so task 1 of seed 1 is task 0 of
        seed 2: seeds that differ by less than the number of tasks share tasks.
        """
        pixels = int(np.prod(self.image_shape[:-1]))
        maps = [np.random.RandomState(number + seed).permutation(pixels) for number in numbers]
        return np.asarray(maps, np.int32)


@dataclass(frozen=True)
class RotatedMNIST(PixelMapBenchmark):
    """Every task turns the images by an angle of its own (MNISTRotate in the paper).

    Attributes:
        num_tasks: tasks over the full circle.
    """

    num_tasks: int = 36

    def __post_init__(self) -> None:
        if not 1 <= self.num_tasks <= 360:
            raise ValueError(f"{self.num_tasks} tasks cannot be a whole number of degrees apart")

    @property
    def max_tasks(self) -> int:
        """As many as there are steps in the circle."""
        return self.num_tasks

    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Int32[np.ndarray, "tasks pixels"]:
        """Pixel maps: task i turns by `i * (360 // num_tasks)` degrees counter-clockwise, to the nearest pixel.

        What comes from outside the image reads 0. The maps are what Pillow makes of an image of pixel numbers.
        """
        height, width, _ = self.image_shape
        numbered = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
        step = 360 // self.num_tasks
        turned = [Image.fromarray(numbered).rotate(number * step, Image.Resampling.NEAREST) for number in numbers]
        maps = np.stack([np.asarray(image).reshape(-1) for image in turned])
        return np.where(maps == 0, height * width, maps - 1).astype(np.int32)


class Rows(NamedTuple):
    """Which samples of the data set belong to a task; under a task axis every task has as many places.

    Attributes:
        train: rows of the training samples, filled up with any.
        test: rows of the test samples, filled up with any.
        train_size: how many of `train` count.
        test_size: how many of `test` count.
    """

    train: Int32[Array | np.ndarray, "*tasks train"]
    test: Int32[Array | np.ndarray, "*tasks test"]
    train_size: Int32[Array | np.ndarray, "*tasks"]
    test_size: Int32[Array | np.ndarray, "*tasks"]


@dataclass(frozen=True)
class SplitMNIST(Benchmark):
    """Every task has a few of the classes, in order, with their labels as they are: 0 and 1, 2 and 3, ...

    Attributes:
        classes_per_task: how many.
    """

    classes_per_task: int = 2

    @classmethod
    def of(cls, dataset: Dataset, classes_per_task: int = 2) -> "SplitMNIST":
        """The benchmark over a data set."""
        train, test = (
            int(np.bincount(np.asarray(split.labels) // classes_per_task).max())
            for split in (dataset.train, dataset.test)
        )
        return cls(train, test, dataset.num_classes, dataset.image_shape, dataset.mean, dataset.std, classes_per_task)

    @property
    def max_tasks(self) -> int:
        """As many as the classes fill."""
        return self.num_classes // self.classes_per_task

    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Rows:
        """The rows of each task's classes; the seed changes nothing.

        Raises:
            IndexError: if there are not so many tasks.
        """
        if max(numbers) >= self.max_tasks:
            raise IndexError(f"there are {self.max_tasks} tasks, and no task {max(numbers)}")

        def rows(split: Split, places: int) -> tuple[np.ndarray, np.ndarray]:
            of_task = [np.flatnonzero(np.asarray(split.labels) // self.classes_per_task == task) for task in numbers]
            return np.stack([np.resize(own, places) for own in of_task]), np.array([len(own) for own in of_task])

        train, train_size = rows(dataset.train, self.train_size)
        test, test_size = rows(dataset.test, self.test_size)
        return Rows(*(np.asarray(part, np.int32) for part in (train, test, train_size, test_size)))

    def size(self, task: Rows, train: bool) -> Int[Array, ""]:
        """How many samples the task's classes have."""
        return jnp.asarray(task.train_size if train else task.test_size)

    def samples(
        self, split: Split, task: Rows, rows: Int[Array | np.ndarray, " batch"], train: bool
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """Samples of the task's classes."""
        chosen = jnp.asarray(task.train if train else task.test)[rows]
        return self.normalise(jnp.asarray(split.images)[chosen]), jnp.asarray(split.labels)[chosen]
