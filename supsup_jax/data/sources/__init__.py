"""Sources of data sets: published ones, and users' files and arrays."""

from supsup_jax.data.sources.arrays import NPZ, Arrays
from supsup_jax.data.sources.base import Source
from supsup_jax.data.sources.cifar import CIFAR10, CIFAR100
from supsup_jax.data.sources.digits import Digits
from supsup_jax.data.sources.folders import ImageFolder
from supsup_jax.data.sources.imagenet import ImageNet
from supsup_jax.data.sources.mnist import EMNIST, KMNIST, MNIST, FashionMNIST
from supsup_jax.data.sources.notmnist import NotMNIST
from supsup_jax.data.sources.svhn import SVHN
from supsup_jax.data.sources.tfds import TFDS
from supsup_jax.data.sources.tinyimagenet import TinyImageNet

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
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "ImageNet",
    "NotMNIST",
    "Source",
    "TinyImageNet",
]

_ALL = MNIST, CIFAR100, Digits, ImageNet, FashionMNIST, KMNIST, EMNIST, CIFAR10, SVHN, NotMNIST, TinyImageNet

SOURCES: dict[str, type[Source]] = {source.name: source for source in _ALL}
"""Published data sets by name; all can be created without arguments."""
