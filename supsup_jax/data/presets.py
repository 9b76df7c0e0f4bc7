"""The paper's benchmarks: families with their data set and options."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from supsup_jax.data.arrays import Dataset
from supsup_jax.data.bound import Augmentation, Order
from supsup_jax.data.families import Permuted, Rotated, Split
from supsup_jax.data.sources import CIFAR100, MNIST, ImageNet, Source
from supsup_jax.data.tasks import Benchmark


@dataclass(frozen=True)
class PermutedMNIST(Permuted):
    """MNISTPerm in the paper: every task shows MNIST's pixels in another order."""

    source: Source = field(default=MNIST())

    @classmethod
    def of(cls, dataset: Dataset, **settings: Any) -> Benchmark:
        """The benchmark over a data set, whatever the source. `settings` are fields of the family."""
        return cls(**settings).bind(dataset)


@dataclass(frozen=True)
class RotatedMNIST(Rotated):
    """MNISTRotate in the paper: every task turns MNIST's images by another 10 degrees."""

    source: Source = field(default=MNIST())
    degrees: int | None = 10

    @classmethod
    def of(cls, dataset: Dataset, **settings: Any) -> Benchmark:
        """The benchmark over a data set, whatever the source. `settings` are fields of the family.

        Its tasks fill the circle, unless `degrees` says otherwise.
        """
        every: dict[str, Any] = {"degrees": None}
        return cls(**(every | settings)).bind(dataset)


@dataclass(frozen=True)
class _SplitPreset(Split):
    derived: ClassVar[tuple[str, ...]] = ("classes_per_task", "order", "relabel", "augment")

    @classmethod
    def of(cls, dataset: Dataset, **settings: Any) -> Any:
        """The benchmark over a data set, whatever the source. `settings` are fields of the family."""
        every: dict[str, Any] = {"num_tasks": None}
        return cls(**(every | settings)).bind(dataset)


@dataclass(frozen=True)
class SplitMNIST(_SplitPreset):
    """Every task has two of MNIST's classes, with their labels as they are: 0 and 1, 2 and 3, ..."""

    source: Source = field(default=MNIST())
    classes_per_task: int = 2
    relabel: bool = False
    num_tasks: int | None = field(default=5, kw_only=True)


@dataclass(frozen=True)
class SplitCIFAR100(_SplitPreset):
    """Every task has five of CIFAR-100's classes, drawn with the seed; a label is the position in the task.

    In training images are moved by up to 4 pixels, and half of them mirrored.
    """

    source: Source = field(default=CIFAR100())
    classes_per_task: int = 5
    order: Order = "drawn"
    augment: Augmentation | None = "crop_flip"
    num_tasks: int | None = field(default=20, kw_only=True)


@dataclass(frozen=True)
class SplitImageNet(_SplitPreset):
    """Every task has ten of ImageNet's classes, the same ones for every seed; a label is the position in the task.

    Training sees random cutouts, resized and half of them mirrored; tests see the centre.
    """

    source: Source = field(default=ImageNet())
    classes_per_task: int = 10
    order: Order = "fixed"
    augment: Augmentation | None = "resized_crop"
    num_tasks: int | None = field(default=100, kw_only=True)
