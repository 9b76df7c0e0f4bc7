"""Loads published data sets by name."""

import os
from pathlib import Path

from supsup_jax.arguments import path, text
from supsup_jax.data.arrays import Dataset
from supsup_jax.data.conventions import converted
from supsup_jax.data.sources import CIFAR100, MNIST, SOURCES, Digits, ImageNet, Source
from supsup_jax.errors import UserError


def load(name: str, folder: str | os.PathLike[str], image_size: int | None = None) -> Dataset:
    """A data set by its name.

    Args:
        name: one of `SOURCES`, such as `"mnist"`.
        folder: where the user keeps data; `~` is expanded.
        image_size: height and width of the images that a network sees of ImageNet's, if not 224; others have a size.

    Raises:
        UserError: if there is no such data set, or its files are missing or damaged.
    """
    name = text("name", name)
    if name not in SOURCES:
        raise UserError(f"there is no data set '{name}'; there are {', '.join(SOURCES)}")
    source = ImageNet(image_size) if name == ImageNet.name and image_size else SOURCES[name]()
    return load_source(source, folder)


def load_source(source: Source, folder: str | os.PathLike[str]) -> Dataset:
    """The data set of a source.

    Args:
        source: any source.
        folder: where the user keeps data; `~` is expanded.

    Raises:
        UserError: if its files are missing or damaged, or its images are neither of 0 to 255 nor of 0 to 1.
    """
    return converted(source.load(path("folder", folder)), type(source).__name__)


def load_mnist(folder: Path) -> Dataset:
    """`MNIST` from a folder."""
    return MNIST().load(folder)


def load_cifar100(folder: Path) -> Dataset:
    """`CIFAR100` from a folder."""
    return CIFAR100().load(folder)


def load_imagenet(folder: Path, image_size: int = 224) -> Dataset:
    """`ImageNet` from a folder."""
    return ImageNet(image_size).load(folder)


def load_digits(folder: Path | None = None) -> Dataset:
    """`Digits`; the folder is ignored."""
    return Digits().load(folder)
