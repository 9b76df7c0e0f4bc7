"""Benchmarks: which samples belong to a task, and how the task shows them.

The tasks of a benchmark are a pytree with a leading task axis. It is created on the host and passed to jitted
functions, so that several tasks are trained at once by `vmap`. All tasks share the data set, which is on the device as
uint8.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Key, PyTree, UInt8

from supsup_jax.data.arrays import Dataset, Samples
from supsup_jax.data.inputs import Inputs
from supsup_jax.errors import UserError, warn

Tasks = PyTree[Array | np.ndarray]
"""Description of tasks: a pytree whose leaves have a leading task axis. Without this axis it describes one task."""


class HeldOut(NamedTuple):
    """Test images of some tasks, for evaluating a model.

    Attributes:
        benchmark: benchmark of the tasks.
        samples: the test samples of all tasks.
        tasks: descriptions of the tasks, stacked along a leading axis.
        numbers: numbers of the tasks, which with the seed determine the fixed order of their test images.
        seed: the seed of this order.
    """

    benchmark: "Benchmark"
    samples: Samples
    tasks: Tasks
    numbers: Int[np.ndarray, " tasks"]
    seed: int


@dataclass(frozen=True)
class Benchmark(ABC):
    """Base class of benchmarks: tasks over one data set. Instances are hashable and hold no arrays.

    Attributes:
        train_size: number of training samples of a task, or of the largest task.
        test_size: number of test samples of a task, or of the largest task.
        num_classes: number of classes of a task; labels are 0 to `num_classes - 1`.
        image_shape: shape `(height, width, channels)` of an image.
        mean: mean of each channel, of images scaled to [0, 1].
        std: standard deviation of each channel, of images scaled to [0, 1].
    """

    train_size: int
    test_size: int
    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, dataset: Dataset, **settings: Any) -> "Benchmark":
        """Create the benchmark over a data set.

        Args:
            dataset: data set whose images have one shape.
            settings: fields that the subclass adds.
        """
        sizes = len(dataset.train.labels), len(dataset.test.labels), dataset.num_classes
        return cls(*sizes, dataset.image_shape, dataset.mean, dataset.std, **settings)

    @property
    def max_tasks(self) -> int | None:
        """Number of tasks, or `None` if it is unlimited."""
        return None

    @abstractmethod
    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Tasks:
        """Return descriptions of tasks.

        Args:
            dataset: data set of the benchmark.
            seed: seed of the experiment.
            numbers: numbers of the tasks.

        Returns:
            A pytree whose leaves have a leading axis with one entry per task.
        """

    def size(self, task: Tasks, train: bool) -> int | Int[Array, ""]:
        """Return the number of training or test samples of a task: at most `train_size` or `test_size`."""
        return self.train_size if train else self.test_size

    @abstractmethod
    def samples(
        self,
        split: Samples,
        task: Tasks,
        rows: Int[Array | np.ndarray, " batch"],
        train: bool,
        keys: Key[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """Return samples as the task shows them, inside a jitted function.

        Args:
            split: training or test samples of the data set.
            task: description of the task.
            rows: numbers of the samples, below the task's `size`; samples for higher numbers are arbitrary.
            train: whether `split` is the training split.
            keys: random keys for augmenting each image; without them images are not augmented.

        Returns:
            Normalised images and their labels.
        """

    def test(self, dataset: Dataset, numbers: Sequence[int], seed: int = 0) -> HeldOut:
        """Return the test images of tasks, as `evaluate` takes them.

        Args:
            dataset: data set of the benchmark.
            numbers: numbers of the tasks.
            seed: seed of the experiment.
        """
        return HeldOut(self, dataset.test, self.tasks(dataset, seed, numbers), np.asarray(numbers), seed)

    @property
    def inputs(self) -> Inputs:
        """Shape and normalisation of the images, and the number of classes."""
        return Inputs(self.image_shape, self.mean, self.std, self.num_classes)

    def normalise(
        self,
        images: UInt8[Array | np.ndarray, "batch height width channels"]
        | Float[Array | np.ndarray, "batch height width channels"],
    ) -> Float[Array, "batch height width channels"]:
        """Subtract the data set's mean from images from 0 to 255, and divide by its standard deviation."""
        return self.inputs.normalise(images)


@dataclass(frozen=True)
class PixelMapBenchmark(Benchmark):
    """Tasks that are the whole data set, each seen through a different pixel map. A subclass implements `tasks`."""

    def samples(
        self,
        split: Samples,
        task: Int[Array | np.ndarray, " pixels"],
        rows: Int[Array | np.ndarray, " batch"],
        train: bool,
        keys: Key[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """Return images mapped by the task's pixel map; an entry beyond the last pixel gives 0."""
        flat = jnp.asarray(split.images)[rows].reshape(len(rows), -1, self.image_shape[-1])
        images = jnp.take(flat, task, axis=1, mode="fill", fill_value=0)
        return self.normalise(images.reshape(-1, *self.image_shape)), jnp.asarray(split.labels)[rows]


class Rows(NamedTuple):
    """Samples of each task, as rows of the data set. Arrays are padded to one length along the task axis.

    Attributes:
        train: rows of the training samples, padded with arbitrary rows.
        test: rows of the test samples, padded with arbitrary rows.
        train_size: number of valid rows in `train`.
        test_size: number of valid rows in `test`.
        labels: label within the task of each class of the data set; arbitrary for classes of other tasks.
    """

    train: Int32[Array | np.ndarray, "*tasks train"]
    test: Int32[Array | np.ndarray, "*tasks test"]
    train_size: Int32[Array | np.ndarray, "*tasks"]
    test_size: Int32[Array | np.ndarray, "*tasks"]
    labels: Int32[Array | np.ndarray, "*tasks classes"]


@dataclass(frozen=True)
class ClassSplit(Benchmark):
    """Tasks that each have some of the data set's classes; no class is in two tasks.

    A subclass implements `order`, and may override `labels` and `show`.

    Attributes:
        dataset_classes: number of classes of the data set.
        equal: whether all classes have the same number of samples, so that the sizes of tasks are known in advance.
        classes_per_task: number of classes of a task.
    """

    dataset_classes: int
    equal: bool
    classes_per_task: int

    @classmethod
    def of(cls, dataset: Dataset, classes_per_task: int | None = None, **settings: Any) -> "ClassSplit":
        """Create the benchmark over a data set.

        Args:
            dataset: the data set.
            classes_per_task: number of classes of a task; by default the default of the subclass.
            settings: further fields of the subclass.
        """
        per_task = classes_per_task or cls.classes_per_task
        counts = [np.sort(np.bincount(split.labels)) for split in (dataset.train, dataset.test)]
        train, test = (int(count[-per_task:].sum()) for count in counts)  # upper limits for any order
        equal = all(count[0] == count[-1] for count in counts)
        shape = per_task, dataset.image_shape, dataset.mean, dataset.std
        return cls(train, test, *shape, dataset.num_classes, bool(equal), per_task, **settings)

    @property
    def max_tasks(self) -> int:
        """Number of tasks that the classes suffice for."""
        return self.dataset_classes // self.classes_per_task

    @abstractmethod
    def order(self, seed: int) -> Int[np.ndarray, " classes"]:
        """Return the classes of the data set in the order in which they are assigned to tasks."""

    def labels(self, classes: Int[np.ndarray, "tasks classes_per_task"]) -> Int[np.ndarray, "tasks classes"]:
        """Return each class's label in each task: its position within the task. Labels of other classes are arbitrary.

        Args:
            classes: the classes of each task.
        """
        labels = np.zeros((len(classes), self.dataset_classes), np.int32)
        np.put_along_axis(labels, classes, np.arange(self.classes_per_task), axis=1)
        return labels

    def show(
        self, images: PyTree[Array], keys: Key[Array, " batch"] | None
    ) -> UInt8[Array, "batch height width channels"] | Float[Array, "batch height width channels"]:
        """Return the images as the network sees them, before normalisation; by default unchanged.

        Args:
            images: batch of images of the data set.
            keys: random keys for augmenting each image, in training.
        """
        return images

    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Rows:
        """Return the rows of each task's classes, and their labels.

        Raises:
            IndexError: if a number is not below `max_tasks`.
            UserError: if a task has no training images.
        """
        if max(numbers) >= self.max_tasks:
            raise IndexError(f"there are {self.max_tasks} tasks, and no task {max(numbers)}")
        per_task = self.classes_per_task
        order = self.order(seed)
        classes = np.stack([order[per_task * number : per_task * (number + 1)] for number in numbers])

        def rows_of(split: Samples, places: int) -> tuple[np.ndarray, np.ndarray]:
            of_task = [np.flatnonzero(np.isin(split.labels, chosen)) for chosen in classes]
            return np.stack([np.resize(rows, places) for rows in of_task]), np.array([len(rows) for rows in of_task])

        train, train_size = rows_of(dataset.train, self.train_size)
        test, test_size = rows_of(dataset.test, self.test_size)
        for number, chosen, trained, tested in zip(numbers, classes.tolist(), train_size, test_size, strict=True):
            problem = f"task {number} (classes {', '.join(map(str, chosen))}) has no"
            if not trained:
                raise UserError(f"{problem} training images; renumber the classes from 0 without gaps")
            if not tested and len(dataset.test.labels):
                warn(f"{problem} test images; its accuracy is NaN")
        parts = train, test, train_size, test_size, self.labels(classes)
        return Rows(*(np.asarray(part, np.int32) for part in parts))

    def size(self, task: Rows, train: bool) -> int | Int[Array, ""]:
        """Return the number of samples of the task's classes: an `int` if all classes have the same number."""
        if self.equal:
            return self.train_size if train else self.test_size
        return jnp.asarray(task.train_size if train else task.test_size)

    def samples(
        self,
        split: Samples,
        task: Rows,
        rows: Int[Array | np.ndarray, " batch"],
        train: bool,
        keys: Key[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """Return samples of the task's classes, with their labels within the task."""
        chosen = jnp.asarray(task.train if train else task.test)[rows]
        images = jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], split.images)
        return self.normalise(self.show(images, keys)), jnp.asarray(task.labels)[jnp.asarray(split.labels)[chosen]]


class Part(NamedTuple):
    """Consecutive test samples of a user-supplied task.

    Attributes:
        start: first row.
        size: number of rows.
    """

    start: Int32[Array | np.ndarray, "*tasks"]
    size: Int32[Array | np.ndarray, "*tasks"]


@dataclass(frozen=True)
class OwnTasks(Benchmark):
    """User-supplied tasks, shown unchanged.

    All training samples belong to one task; the test samples may belong to several.
    """

    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Part:
        """Return descriptions in which each task has all test samples."""
        return Part(np.zeros(len(numbers), np.int32), np.full(len(numbers), self.test_size, np.int32))

    def size(self, task: Part, train: bool) -> int | Int[Array, ""]:
        """Return the number of training or test samples of a task."""
        return self.train_size if train else jnp.asarray(task.size)

    def samples(
        self,
        split: Samples,
        task: Part,
        rows: Int[Array | np.ndarray, " batch"],
        train: bool,
        keys: Key[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """Return images and labels without a change by the task."""
        chosen = jnp.asarray(rows) if train else jnp.asarray(task.start) + rows
        images: Any = split.images
        return self.normalise(jnp.asarray(images)[chosen]), jnp.asarray(split.labels)[chosen]
