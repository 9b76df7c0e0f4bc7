"""Data sets, and tasks over them."""

from supsup_jax.data.arrays import Dataset, Samples
from supsup_jax.data.augmentation import Frames
from supsup_jax.data.bound import PermutedPixels, RotatedPixels, SplitClasses
from supsup_jax.data.families import Permuted, Rotated, Split, TaskFamily
from supsup_jax.data.images import Images
from supsup_jax.data.inputs import Inputs
from supsup_jax.data.loading import load, load_cifar100, load_digits, load_imagenet, load_mnist, load_source
from supsup_jax.data.presets import PermutedMNIST, RotatedMNIST, SplitCIFAR100, SplitImageNet, SplitMNIST
from supsup_jax.data.sources import (
    CIFAR10,
    CIFAR100,
    EMNIST,
    KMNIST,
    MNIST,
    NPZ,
    SOURCES,
    SVHN,
    TFDS,
    Arrays,
    Digits,
    FashionMNIST,
    ImageFolder,
    ImageNet,
    Source,
)
from supsup_jax.data.tasks import Benchmark, ClassSplit, HeldOut, OwnTasks, PixelMapBenchmark, Rows, Tasks

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "EMNIST",
    "KMNIST",
    "MNIST",
    "NPZ",
    "SOURCES",
    "SVHN",
    "TFDS",
    "Arrays",
    "Benchmark",
    "ClassSplit",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "Frames",
    "HeldOut",
    "ImageFolder",
    "ImageNet",
    "Images",
    "Inputs",
    "OwnTasks",
    "Permuted",
    "PermutedMNIST",
    "PermutedPixels",
    "PixelMapBenchmark",
    "Rotated",
    "RotatedMNIST",
    "RotatedPixels",
    "Rows",
    "Samples",
    "Source",
    "Split",
    "SplitCIFAR100",
    "SplitClasses",
    "SplitImageNet",
    "SplitMNIST",
    "TaskFamily",
    "Tasks",
    "load",
    "load_cifar100",
    "load_digits",
    "load_imagenet",
    "load_mnist",
    "load_source",
]
