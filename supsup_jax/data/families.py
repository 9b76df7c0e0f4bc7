"""Task families: how an experiment derives its tasks from any data set.

A family names its source and defines how tasks are derived from it. `bind` returns the `Benchmark` over the loaded
data set, which jitted functions take.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, get_args

import numpy as np
from typing_extensions import override

from supsup_jax.arguments import Part, wrong_type
from supsup_jax.checks import check_counts
from supsup_jax.data import conventions
from supsup_jax.data.arrays import Dataset
from supsup_jax.data.bound import Augmentation, Order, PermutedPixels, RotatedPixels, SplitClasses
from supsup_jax.data.loading import load_source
from supsup_jax.data.sources import Source
from supsup_jax.data.sources.arrays import check_labels
from supsup_jax.data.tasks import Benchmark
from supsup_jax.errors import ArgumentError, UserError, warn

_SHOWN = 10


@dataclass(frozen=True)
class TaskFamily(Part, ABC):
    """Base class of task families.

    A subclass implements `bind`. It can be defined in a user's script:

        @dataclass(frozen=True)
        class Shifted(data.TaskFamily):
            num_tasks: int = 8

            def bind(self, dataset):
                return ShiftedPixels.of(dataset)

    The benchmark that `bind` returns defines the tasks, for instance a subclass of `PixelMapBenchmark` that implements
    `tasks`, or of `ClassSplit` that implements `order`. Families are frozen dataclasses with hashable fields, which
    they validate in `__post_init__`. The fields become the flags of a script.

    Attributes:
        source: the data set.
            num_tasks: number of tasks to learn. `None` means all tasks of the benchmark.

    Raises:
        UserError: if a field is out of range.
    """

    kind: ClassVar[str] = "tasks"
    derived: ClassVar[tuple[str, ...]] = ()

    source: Source
    num_tasks: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_counts(self, "num_tasks")

    def load(self, folder: str | os.PathLike[str]) -> Dataset:
        """Load the source's data set.

        Args:
            folder: the user's data folder; `~` is expanded.

        Raises:
            UserError: if its files are missing or damaged.
        """
        return load_source(self.source, folder)

    @abstractmethod
    def bind(self, dataset: Dataset) -> Benchmark:
        """Return the benchmark over the loaded data set.

        Args:
            dataset: the data set that `load` returned, or a compatible one.

        Raises:
            UserError: if the labels are not one non-negative integer per sample, or there are fewer than `num_tasks`
                tasks.
        """

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _check_count(self, benchmark: Benchmark) -> None:
        """Check that the benchmark has at least `num_tasks` tasks."""
        if benchmark.max_tasks is not None and (self.num_tasks or 1) > benchmark.max_tasks:
            problem = f"{self._name} has {benchmark.max_tasks} tasks"
            raise ArgumentError("num_tasks", self.num_tasks or 1, problem)

    def _refuse_images_on_disk(self) -> None:
        if self.source.on_disk:
            raise UserError(
                f"{self._name}: source {type(self.source).__name__} decodes its images task by task; use Split with "
                "augment 'resized_crop'"
            )

    def check(self, dataset: Dataset, without_gaps: bool = False) -> None:
        """Check the range of the images and the labels of a data set, and warn about classes without images.

        Args:
            dataset: the loaded data set.
            without_gaps: raise an error, rather than warn, if a class has no training images.

        Raises:
            UserError: if floats are not from 0 to 255, labels are not one non-negative integer per sample, or a class
                that needs training images has none.
        """
        if not isinstance(dataset, Dataset):
            raise wrong_type("dataset", dataset, "a data.Dataset, such as data.Arrays(train=..., test=...).load()")
        conventions.check(dataset, self._name)
        for split, samples in (("train", dataset.train), ("test", dataset.test)):
            check_labels(np.asarray(samples.labels), len(samples.images), f"{self._name}: {split}")
            if not len(samples.labels):
                raise UserError(f"{self._name}: there are no {split} images; give at least one")
        if missing := _missing(dataset, dataset.train.labels):
            problem = f"{self._name}: {_classes(missing)} without training images"
            if without_gaps:
                raise UserError(f"{problem}; renumber the classes from 0 without gaps")
            warn(problem)
        if missing := _missing(dataset, dataset.test.labels):
            warn(f"{self._name}: {_classes(missing)} without test images")


def _missing(dataset: Dataset, labels: Any) -> list[int]:
    classes = max(int(np.max(split.labels, initial=-1)) for split in (dataset.train, dataset.test)) + 1
    return np.flatnonzero(np.bincount(np.asarray(labels), minlength=classes) == 0).tolist()


def _classes(numbers: Iterable[int]) -> str:
    """Return the names of classes for a message."""
    numbers = list(numbers)
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
    return f"class {shown}" if len(numbers) == 1 else f"classes {shown}"


@dataclass(frozen=True)
class Permuted(TaskFamily):
    """Tasks that each show all images with their pixels in a different order.

    The channels of a pixel stay together. The order is a function of the seed and the task's number.

    Attributes:
        source: the data set.
        num_tasks: number of tasks to learn; there is no upper limit.
    """

    num_tasks: int = 250

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_images_on_disk()

    @override
    def bind(self, dataset: Dataset) -> Benchmark:
        self.check(dataset)
        return PermutedPixels.of(dataset)


@dataclass(frozen=True)
class Rotated(TaskFamily):
    """Tasks that each rotate all images by a different angle, counter-clockwise.

    Attributes:
        source: the data set.
        num_tasks: number of tasks to learn.
        degrees: angle between consecutive tasks. The default, `360 // num_tasks`, is filled in when the family is
            created, so that the angles stay the same if `num_tasks` changes later.
    """

    num_tasks: int = 36
    degrees: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_images_on_disk()
        if self.degrees is None:
            if self.num_tasks > 360:
                raise UserError(
                    f"{self._name}: {self.num_tasks} tasks cannot be a whole number of degrees apart; give num_tasks "
                    "of at most 360"
                )
            object.__setattr__(self, "degrees", 360 // self.num_tasks)
        elif not 1 <= self.degrees <= 360:
            raise UserError(f"{self._name}: degrees {self.degrees} must be from 1 to 360")

    @override
    def bind(self, dataset: Dataset) -> Benchmark:
        assert self.degrees is not None
        self.check(dataset)
        benchmark = RotatedPixels.of(dataset, degrees=self.degrees)
        self._check_count(benchmark)
        return benchmark


@dataclass(frozen=True)
class Split(TaskFamily):
    """Tasks that each have some of the data set's classes; no class is in two tasks.

    Attributes:
        source: the data set.
        classes_per_task: number of classes of a task.
        num_tasks: number of tasks to learn; by default as many as the classes allow. A warning names the classes that
            are in no task.
        order: order in which classes are assigned to tasks: `"given"`, from 0 upwards; `"drawn"`, in the order
            `RandomState(seed).permutation(classes)`; `"fixed"`, the same with seed 1 for every seed; or all classes in
            the order to use.
        relabel: whether labels are positions of classes within their task, so that all tasks share outputs; otherwise
            labels are not changed.
        augment: augmentation of training images: `"crop_flip"`, shifts by up to 4 pixels and mirroring of half of the
            images; `"resized_crop"`, resized random crops, half of them mirrored, and centre crops of test images, for
            sources whose images are on disk; by default none.
    """

    classes_per_task: int = 2
    order: Order | tuple[int, ...] = "given"
    relabel: bool = True
    augment: Augmentation | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes_per_task < 1:
            raise UserError(f"{self._name}: classes_per_task {self.classes_per_task} must be at least 1")
        if not isinstance(self.order, tuple) and self.order not in get_args(Order):
            choices = ", ".join(get_args(Order))
            raise UserError(
                f"{self._name}: order {self.order!r} does not exist; give one of {choices}, or all classes in order"
            )
        if self.augment not in (None, *get_args(Augmentation)):
            choices = ", ".join(get_args(Augmentation))
            raise UserError(f"{self._name}: augment {self.augment!r} does not exist; give None or one of {choices}")
        if (self.augment == "resized_crop") != self.source.on_disk:
            raise UserError(
                f"{self._name}: augment 'resized_crop' requires a source whose images are on disk and vice versa; "
                f"{type(self.source).__name__} has its images {'on disk' if self.source.on_disk else 'in memory'}"
            )

    @override
    def bind(self, dataset: Dataset) -> Benchmark:
        self.check(dataset, without_gaps=True)
        if isinstance(self.order, tuple) and sorted(self.order) != [*range(dataset.num_classes)]:
            raise UserError(
                f"{self._name}: order has {len(self.order)} classes; give each of the {dataset.num_classes} classes "
                f"from 0 to {dataset.num_classes - 1} once"
            )
        settings = {"class_order": self.order, "relabel": self.relabel, "augment": self.augment}
        benchmark: Any = SplitClasses.of(dataset, self.classes_per_task, **settings)
        if not benchmark.max_tasks:
            raise UserError(
                f"{self._name}: classes_per_task {self.classes_per_task} is more than the {dataset.num_classes} classes"
            )
        self._check_count(benchmark)
        self._warn_of_unused_classes(benchmark)
        if not self.relabel:
            benchmark = replace(benchmark, num_classes=dataset.num_classes)
        if self.order == "given":  # exact sizes are known, not only upper limits
            train, test = (
                int(np.bincount(np.asarray(split.labels) // self.classes_per_task)[: benchmark.max_tasks].max())
                for split in (dataset.train, dataset.test)
            )
            benchmark = replace(benchmark, train_size=train, test_size=test)
        return benchmark

    def _warn_of_unused_classes(self, benchmark: SplitClasses) -> None:
        """Warn about classes that are in no task although all tasks are to be learned."""
        unused = benchmark.dataset_classes - benchmark.max_tasks * self.classes_per_task
        if not unused or (self.num_tasks or benchmark.max_tasks) < benchmark.max_tasks:
            return
        classes = f"the last {unused} in the order that the seed draws"
        if self.order != "drawn":
            classes = _classes(sorted(benchmark.order(0)[-unused:].tolist()))
        warn(
            f"{self._name}: {benchmark.dataset_classes} classes make {benchmark.max_tasks} tasks of "
            f"{self.classes_per_task}; in no task: {classes}"
        )
