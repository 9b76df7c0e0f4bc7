"""Data sets, most of them as arrays in memory, and where they come from."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from supsup_jax.data import cifar100, files, imagenet, mnist
from supsup_jax.data.augmentation import Frames
from supsup_jax.data.images import Images
from supsup_jax.errors import UserError


class Samples(NamedTuple):
    """The samples of a training or test set; a pytree.

    Attributes:
        images: uint8, or floats of 0 to 255, `(samples, height, width, channels)`; those of ImageNet are on disk, and
            some of them decoded are frames.
        labels: int32, `(samples,)`.
    """

    images: (
        UInt8[Array | np.ndarray, "samples height width channels"]
        | Float[Array | np.ndarray, "samples height width channels"]
        | Images
        | Frames
    )
    labels: Int32[Array | np.ndarray, " samples"]


class Dataset(NamedTuple):
    """A data set.

    Attributes:
        train: the training samples.
        test: the test samples.
        mean: subtracted from images scaled to [0, 1], for each channel.
        std: what they are then divided by, for each channel.
    """

    train: Samples
    test: Samples
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """`(height, width, channels)` of an image, as a network sees it."""
        images: Any = self.train.images
        return images.shape[1:]

    @property
    def num_classes(self) -> int:
        """How many different labels there are, counted from 0."""
        return int(self.train.labels.max()) + 1


NORMALISATION = {
    "mnist": ((0.1307,), (0.3081,)),
    "cifar100": ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of each channel, as the original has them."""


def load_mnist(folder: Path) -> Dataset:
    """MNIST: 60,000 training and 10,000 test images of 28 × 28.

    Args:
        folder: holds MNIST in one of the layouts that `supsup_jax.data.mnist` reads; else it is downloaded there.

    Raises:
        UserError: if a file is missing and cannot be downloaded, or is not what it should be.
    """
    return _dataset("mnist", *map(_split, mnist.read(folder)))


def load_cifar100(folder: Path) -> Dataset:
    """CIFAR-100: 50,000 training and 10,000 test images of 32 × 32 in colour, with their fine labels.

    Args:
        folder: holds CIFAR-100 in one of the layouts that `supsup_jax.data.cifar100` reads; else it is downloaded
            there.

    Raises:
        UserError: if a file is missing and cannot be downloaded, or is not what it should be.
    """
    return _dataset("cifar100", *map(_split, cifar100.read(folder)))


def load_imagenet(folder: Path, image_size: int = 224) -> Dataset:
    """ImageNet: 1.28 million training and 50,000 validation images of 1,000 classes, on disk, of any size, in colour.

    Args:
        folder: holds ImageNet in one of the layouts that `supsup_jax.data.imagenet` reads.
        image_size: pixels of a side of the square that a network will see.

    Raises:
        UserError: if it is not there, or not as it should be, or what decodes it is not installed.
    """
    train, test = imagenet.read(folder, image_size)
    return _dataset("imagenet", Samples(*train), Samples(*test))


def _dataset(name: str, train: Samples, test: Samples) -> Dataset:
    mean, std = NORMALISATION[name]
    return Dataset(train, test, mean, std)


def _split(samples: files.RawSamples) -> Samples:
    images, labels = samples
    return Samples(images, labels.astype(np.int32))


def load_digits(folder: Path | None = None) -> Dataset:
    """The handwritten digits that come with scikit-learn: 1,797 images of 8 × 8, every fifth one for testing.

    Args:
        folder: ignored; nothing is read from disk and nothing downloaded.
    """
    from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    # The published values are 0 to 16.
    images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int32)
    test = np.arange(len(labels)) % 5 == 4
    scaled = images[~test] / 255
    train, test_split = (Samples(images[rows], labels[rows]) for rows in (~test, test))
    return Dataset(train, test_split, mean=(float(scaled.mean()),), std=(float(scaled.std()),))


_LOADERS: dict[str, Callable[..., Dataset]] = {
    "mnist": load_mnist,
    "cifar100": load_cifar100,
    "digits": load_digits,
    "imagenet": load_imagenet,
}


def load(name: str, folder: str | Path, image_size: int | None = None) -> Dataset:
    """A data set by its name.

    Args:
        name: `"mnist"`, `"cifar100"`, `"digits"` or `"imagenet"`.
        folder: where the user keeps data; `~` is expanded.
        image_size: pixels of a side of what a network will see of ImageNet's images, if not 224; others have a size.

    Raises:
        UserError: if there is no such data set, or its files cannot be used.
    """
    if name not in _LOADERS:
        raise UserError(f"there is no data set '{name}'; there are {', '.join(_LOADERS)}")
    settings = {"image_size": image_size} if name == "imagenet" and image_size else {}
    return _LOADERS[name](Path(os.path.expanduser(folder)), **settings)
