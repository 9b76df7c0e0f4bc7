"""The benchmarks of the paper and of related work: task families with their data sets and options."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from supsup_jax.data import cifar100
from supsup_jax.data.arrays import Dataset
from supsup_jax.data.bound import Augmentation, Order
from supsup_jax.data.concatenation import Concatenated
from supsup_jax.data.families import Permuted, Rotated, Split
from supsup_jax.data.sources import CIFAR10, CIFAR100, MNIST, ImageNet, Source, TinyImageNet
from supsup_jax.data.tasks import Benchmark


@dataclass(frozen=True)
class PermutedMNIST(Permuted):
    """MNISTPerm in the paper: each task permutes MNIST's pixels differently."""

    source: Source = field(default=MNIST())

    @classmethod
    def of(cls, dataset: Dataset, **settings: Any) -> Benchmark:
        """Return the benchmark over any data set; `settings` are fields of the family."""
        return cls(**settings).bind(dataset)


@dataclass(frozen=True)
class RotatedMNIST(Rotated):
    """MNISTRotate in the paper: consecutive tasks rotate MNIST's images by 10 degrees more."""

    source: Source = field(default=MNIST())
    degrees: int | None = 10

    @classmethod
    def of(cls, dataset: Dataset, **settings: Any) -> Benchmark:
        """Return the benchmark over any data set; `settings` are fields of the family.

        Unless `degrees` is given, the tasks fill the circle.
        """
        every: dict[str, Any] = {"degrees": None}
        return cls(**(every | settings)).bind(dataset)


@dataclass(frozen=True)
class _SplitPreset(Split):
    derived: ClassVar[tuple[str, ...]] = ("classes_per_task", "order", "relabel", "augment")

    @classmethod
    def of(cls, dataset: Dataset, **settings: Any) -> Any:
        """Return the benchmark over any data set; `settings` are fields of the family."""
        every: dict[str, Any] = {"num_tasks": None}
        return cls(**(every | settings)).bind(dataset)


@dataclass(frozen=True)
class SplitMNIST(_SplitPreset):
    """Each task has two of MNIST's classes with unchanged labels: 0 and 1, 2 and 3, ..."""

    source: Source = field(default=MNIST())
    classes_per_task: int = 2
    relabel: bool = False
    num_tasks: int | None = field(default=5, kw_only=True)


@dataclass(frozen=True)
class SplitCIFAR100(_SplitPreset):
    """Each task has five of CIFAR-100's classes, drawn with the seed; labels are positions within the task.

    Training images are shifted by up to 4 pixels, and half of them are mirrored.
    """

    source: Source = field(default=CIFAR100())
    classes_per_task: int = 5
    order: Order | tuple[int, ...] = "drawn"
    augment: Augmentation | None = "crop_flip"
    num_tasks: int | None = field(default=20, kw_only=True)


@dataclass(frozen=True)
class SplitCIFAR10(_SplitPreset):
    """Each task has two of CIFAR-10's classes: 0 and 1, 2 and 3, ...; labels are positions within the task.

    Training images are augmented as in `SplitCIFAR100`.
    """

    source: Source = field(default=CIFAR10())
    classes_per_task: int = 2
    augment: Augmentation | None = "crop_flip"
    num_tasks: int | None = field(default=5, kw_only=True)


@dataclass(frozen=True)
class CIFAR100Superclasses(_SplitPreset):
    """Each task has the five classes of one of CIFAR-100's superclasses; labels are positions within the task.

    The order of the tasks is that of the coarse labels. Training images are augmented as in `SplitCIFAR100`.
    """

    source: Source = field(default=CIFAR100())
    classes_per_task: int = 5
    order: Order | tuple[int, ...] = cifar100.BY_SUPERCLASS
    augment: Augmentation | None = "crop_flip"
    num_tasks: int | None = field(default=20, kw_only=True)


@dataclass(frozen=True)
class SplitTinyImageNet(_SplitPreset):
    """Each task has five of TinyImageNet's classes, drawn with the seed; labels are positions within the task.

    Training images are augmented as in `SplitCIFAR100`.
    """

    source: Source = field(default=TinyImageNet())
    classes_per_task: int = 5
    order: Order | tuple[int, ...] = "drawn"
    augment: Augmentation | None = "crop_flip"
    num_tasks: int | None = field(default=40, kw_only=True)


@dataclass(frozen=True)
class FiveDatasets(_SplitPreset):
    """Each task is a data set of ten classes: CIFAR-10, MNIST, SVHN, Fashion-MNIST, notMNIST (Ebrahimi et al., 2020).

    Images have 32 × 32 pixels in colour, grey images with a border of zeros. They are not augmented.
    """

    source: Source = field(default=Concatenated(("cifar10", "mnist", "svhn", "fashion_mnist", "notmnist")))
    classes_per_task: int = 10
    num_tasks: int | None = field(default=5, kw_only=True)


@dataclass(frozen=True)
class SplitImageNet(_SplitPreset):
    """Each task has ten of ImageNet's classes, the same for every seed; labels are positions within the task.

    Training uses resized random crops, half of them mirrored; tests use the centre of each image.
    """

    source: Source = field(default=ImageNet())
    classes_per_task: int = 10
    order: Order | tuple[int, ...] = "fixed"
    augment: Augmentation | None = "resized_crop"
    num_tasks: int | None = field(default=100, kw_only=True)
