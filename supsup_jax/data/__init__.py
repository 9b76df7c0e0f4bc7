"""Where the arrays come from, and what a task is."""

from supsup_jax.data.arrays import Dataset, Samples, load, load_cifar100, load_digits, load_imagenet, load_mnist
from supsup_jax.data.augmentation import Frames
from supsup_jax.data.images import Images
from supsup_jax.data.inputs import Inputs
from supsup_jax.data.tasks import (
    Benchmark,
    ClassSplit,
    OwnTasks,
    PermutedMNIST,
    PixelMapBenchmark,
    RotatedMNIST,
    Rows,
    SplitCIFAR100,
    SplitImageNet,
    SplitMNIST,
    Tasks,
)

__all__ = [
    "Benchmark",
    "ClassSplit",
    "Dataset",
    "Frames",
    "Images",
    "Inputs",
    "OwnTasks",
    "PermutedMNIST",
    "PixelMapBenchmark",
    "RotatedMNIST",
    "Rows",
    "Samples",
    "SplitCIFAR100",
    "SplitImageNet",
    "SplitMNIST",
    "Tasks",
    "load",
    "load_cifar100",
    "load_digits",
    "load_imagenet",
    "load_mnist",
]
