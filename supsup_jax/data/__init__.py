"""Where the arrays come from, and what a task is."""

from supsup_jax.data.arrays import Dataset, Split, load, load_cifar100, load_digits, load_mnist
from supsup_jax.data.tasks import Benchmark, PermutedMNIST, RotatedMNIST, SplitCIFAR100, SplitMNIST, Tasks

__all__ = [
    "Benchmark",
    "Dataset",
    "PermutedMNIST",
    "RotatedMNIST",
    "Split",
    "SplitCIFAR100",
    "SplitMNIST",
    "Tasks",
    "load",
    "load_cifar100",
    "load_digits",
    "load_mnist",
]
