"""What a task is: which samples belong to it, and how it shows them.

The tasks of a benchmark are a pytree with a leading task axis, made on the host and handed to jitted functions, so
that a chunk of tasks is trained by `vmap`. The data set is shared by all of them and lies on the device as uint8.
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
"""What describes tasks: leaves with a leading task axis; without it, one task."""


class HeldOut(NamedTuple):
    """Test images of some tasks, on which a model is evaluated.

    Attributes:
        benchmark: shows samples as a task shows them.
        samples: the test samples of all tasks.
        tasks: describes the tasks, stacked along a leading axis.
        numbers: of the tasks, from which with the seed the fixed order of their test images follows.
        seed: the seed of this order.
    """

    benchmark: "Benchmark"
    samples: Samples
    tasks: Tasks
    numbers: Int[np.ndarray, " tasks"]
    seed: int


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

    @classmethod
    def of(cls, dataset: Dataset, **settings: Any) -> "Benchmark":
        """The benchmark over a data set.

        Args:
            dataset: its images all have one shape.
            settings: the fields that a benchmark has of its own.
        """
        sizes = len(dataset.train.labels), len(dataset.test.labels), dataset.num_classes
        return cls(*sizes, dataset.image_shape, dataset.mean, dataset.std, **settings)

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
        self,
        split: Samples,
        task: Tasks,
        rows: Int[Array | np.ndarray, " batch"],
        train: bool,
        keys: Key[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """Samples as the task shows them, inside a jitted function.

        Args:
            split: the training or test samples of the data set.
            task: what describes the task.
            rows: numbers below the task's `size`; beyond it samples are any.
            train: whether it is the training split.
            keys: random numbers to augment each image with; without them images come as they are.

        Returns:
            Normalised images and their labels.
        """

    def test(self, dataset: Dataset, numbers: Sequence[int], seed: int = 0) -> HeldOut:
        """The test images of tasks, as `evaluate` takes them.

        Args:
            dataset: the data set that the benchmark is over.
            numbers: which tasks.
            seed: the experiment's seed.
        """
        return HeldOut(self, dataset.test, self.tasks(dataset, seed, numbers), np.asarray(numbers), seed)

    @property
    def inputs(self) -> Inputs:
        """What images are to a network."""
        return Inputs(self.image_shape, self.mean, self.std, self.num_classes)

    def normalise(
        self,
        images: UInt8[Array | np.ndarray, "batch height width channels"]
        | Float[Array | np.ndarray, "batch height width channels"],
    ) -> Float[Array, "batch height width channels"]:
        """Images of 0 to 255 with the data set's mean subtracted, divided by its standard deviation."""
        return self.inputs.normalise(images)


@dataclass(frozen=True)
class PixelMapBenchmark(Benchmark):
    """Every task is the whole data set with its pixels moved, by a pixel map of its own. A subclass has `tasks`."""

    def samples(
        self,
        split: Samples,
        task: Int[Array | np.ndarray, " pixels"],
        rows: Int[Array | np.ndarray, " batch"],
        train: bool,
        keys: Key[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """The images through the task's pixel map, an entry of which beyond the last pixel reads 0."""
        flat = jnp.asarray(split.images)[rows].reshape(len(rows), -1, self.image_shape[-1])
        images = jnp.take(flat, task, axis=1, mode="fill", fill_value=0)
        return self.normalise(images.reshape(-1, *self.image_shape)), jnp.asarray(split.labels)[rows]


class Rows(NamedTuple):
    """Which samples of the data set belong to a task; under a task axis every task has as many places.

    Attributes:
        train: rows of the training samples, filled up with any.
        test: rows of the test samples, filled up with any.
        train_size: how many of `train` count.
        test_size: how many of `test` count.
        labels: the label that each class of the data set has in the task, if it is one of the task's.
    """

    train: Int32[Array | np.ndarray, "*tasks train"]
    test: Int32[Array | np.ndarray, "*tasks test"]
    train_size: Int32[Array | np.ndarray, "*tasks"]
    test_size: Int32[Array | np.ndarray, "*tasks"]
    labels: Int32[Array | np.ndarray, "*tasks classes"]


@dataclass(frozen=True)
class ClassSplit(Benchmark):
    """Every task has a few of the data set's classes, and no class is in two tasks.

    A subclass has `order`, and may have `labels` and `show`.

    Attributes:
        dataset_classes: classes of the data set.
        equal: whether all of them have equally many samples, so that the sizes of tasks are known beforehand.
        classes_per_task: how many a task has.
    """

    dataset_classes: int
    equal: bool
    classes_per_task: int

    @classmethod
    def of(cls, dataset: Dataset, classes_per_task: int | None = None, **settings: Any) -> "ClassSplit":
        """The benchmark over a data set.

        Args:
            dataset: the data set.
            classes_per_task: how many a task has; by default the subclass's own default.
            settings: further fields of the subclass.
        """
        own = classes_per_task or cls.classes_per_task
        counts = [np.sort(np.bincount(split.labels)) for split in (dataset.train, dataset.test)]
        train, test = (int(count[-own:].sum()) for count in counts)  # whatever classes come together
        equal = all(count[0] == count[-1] for count in counts)
        shape = own, dataset.image_shape, dataset.mean, dataset.std
        return cls(train, test, *shape, dataset.num_classes, bool(equal), own, **settings)

    @property
    def max_tasks(self) -> int:
        """As many as the classes fill."""
        return self.dataset_classes // self.classes_per_task

    @abstractmethod
    def order(self, seed: int) -> Int[np.ndarray, " classes"]:
        """The classes of the data set, as the tasks take them one after another."""

    def labels(self, classes: Int[np.ndarray, "tasks own"]) -> Int[np.ndarray, "tasks classes"]:
        """The label that each class of the data set has in each task: its position among those of the task.

        Args:
            classes: the classes of each task.
        """
        labels = np.zeros((len(classes), self.dataset_classes), np.int32)
        np.put_along_axis(labels, classes, np.arange(self.classes_per_task), axis=1)
        return labels

    def show(
        self, images: PyTree[Array], keys: Key[Array, " batch"] | None
    ) -> UInt8[Array, "batch height width channels"] | Float[Array, "batch height width channels"]:
        """Images as they are seen, before they are normalised; by default as they are.

        Args:
            images: a batch of them, as they lie in the data set.
            keys: random numbers to augment each with, in training.
        """
        return images

    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Rows:
        """The rows of each task's classes, and their labels there.

        Raises:
            IndexError: if there are not so many tasks.
            UserError: if a task has no training images.
        """
        if max(numbers) >= self.max_tasks:
            raise IndexError(f"there are {self.max_tasks} tasks, and no task {max(numbers)}")
        own = self.classes_per_task
        order = self.order(seed)
        classes = np.stack([order[own * number : own * (number + 1)] for number in numbers])

        def rows(split: Samples, places: int) -> tuple[np.ndarray, np.ndarray]:
            of_task = [np.flatnonzero(np.isin(split.labels, few)) for few in classes]
            return np.stack([np.resize(few, places) for few in of_task]), np.array([len(few) for few in of_task])

        train, train_size = rows(dataset.train, self.train_size)
        test, test_size = rows(dataset.test, self.test_size)
        for number, few, trained, tested in zip(numbers, classes.tolist(), train_size, test_size, strict=True):
            which = f"task {number} (classes {', '.join(map(str, few))}) has no"
            if not trained:
                raise UserError(f"{which} training images; renumber the classes from 0 without gaps")
            if not tested and len(dataset.test.labels):
                warn(f"{which} test images; its accuracy is NaN")
        parts = train, test, train_size, test_size, self.labels(classes)
        return Rows(*(np.asarray(part, np.int32) for part in parts))

    def size(self, task: Rows, train: bool) -> int | Int[Array, ""]:
        """How many samples the task's classes have: a number where all have equally many."""
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
        """Samples of the task's classes, with their labels there."""
        chosen = jnp.asarray(task.train if train else task.test)[rows]
        images = jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], split.images)
        return self.normalise(self.show(images, keys)), jnp.asarray(task.labels)[jnp.asarray(split.labels)[chosen]]


class Part(NamedTuple):
    """Which test samples belong to a task of one's own: some in a row.

    Attributes:
        start: the first.
        size: how many.
    """

    start: Int32[Array | np.ndarray, "*tasks"]
    size: Int32[Array | np.ndarray, "*tasks"]


@dataclass(frozen=True)
class OwnTasks(Benchmark):
    """Tasks that are data sets of their own, as they are: all of the training samples are one, the test may be many."""

    def tasks(self, dataset: Dataset, seed: int, numbers: Sequence[int]) -> Part:
        """Each is the whole data set."""
        return Part(np.zeros(len(numbers), np.int32), np.full(len(numbers), self.test_size, np.int32))

    def size(self, task: Part, train: bool) -> int | Int[Array, ""]:
        """How many samples a task has."""
        return self.train_size if train else jnp.asarray(task.size)

    def samples(
        self,
        split: Samples,
        task: Part,
        rows: Int[Array | np.ndarray, " batch"],
        train: bool,
        keys: Key[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, "batch height width channels"], Int[Array, " batch"]]:
        """The images and labels as they are."""
        chosen = jnp.asarray(rows) if train else jnp.asarray(task.start) + rows
        images: Any = split.images
        return self.normalise(jnp.asarray(images)[chosen]), jnp.asarray(split.labels)[chosen]
