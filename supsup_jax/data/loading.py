"""Functions that load published data sets by name."""

import os
from pathlib import Path

from supsup_jax.arguments import path, text
from supsup_jax.data.arrays import Dataset
from supsup_jax.data.conventions import converted
from supsup_jax.data.sources import CIFAR100, MNIST, SOURCES, Digits, ImageNet, Source
from supsup_jax.errors import UserError


def load(name: str, folder: str | os.PathLike[str], image_size: int | None = None) -> Dataset:
    """Load a data set by its name.

    Args:
        name: one of `SOURCES`, such as `"mnist"`.
        folder: the user's data folder; `~` is expanded.
        image_size: height and width of ImageNet's images as the network sees them, by default 224; other data sets
            ignore it.

    Raises:
        UserError: if there is no data set of this name, or its files are missing or damaged.
    """
    name = text("name", name)
    if name not in SOURCES:
        raise UserError(f"there is no data set '{name}'; there are {', '.join(SOURCES)}")
    source = ImageNet(image_size) if name == ImageNet.name and image_size else SOURCES[name]()
    return load_source(source, folder)


def load_source(source: Source, folder: str | os.PathLike[str]) -> Dataset:
    """Load the data set of a source.

    Args:
        source: any source.
        folder: the user's data folder; `~` is expanded.

    Raises:
        UserError: if its files are missing or damaged, or its images are neither from 0 to 255 nor from 0 to 1.
    """
    return converted(source.load(path("folder", folder)), type(source).__name__)


def load_mnist(folder: Path) -> Dataset:
    """Load `MNIST` from a folder."""
    return MNIST().load(folder)


def load_cifar100(folder: Path) -> Dataset:
    """Load `CIFAR100` from a folder."""
    return CIFAR100().load(folder)


def load_imagenet(folder: Path, image_size: int = 224) -> Dataset:
    """Load `ImageNet` from a folder."""
    return ImageNet(image_size).load(folder)


def load_digits(folder: Path | None = None) -> Dataset:
    """Load `Digits`; the folder is ignored."""
    return Digits().load(folder)
