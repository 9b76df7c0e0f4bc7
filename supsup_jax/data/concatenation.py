"""Source that concatenates data sets."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from typing_extensions import override

from supsup_jax import registry
from supsup_jax.checks import check_counts
from supsup_jax.data.arrays import Dataset, Samples
from supsup_jax.data.conventions import converted
from supsup_jax.data.sources import NPZ, SOURCES, TFDS, ImageFolder, Source
from supsup_jax.data.sources.base import dataset_of
from supsup_jax.errors import ArgumentError, UserError

_WITH_ARGUMENT: dict[str, type[Source]] = {"TFDS": TFDS, "image_folder": ImageFolder, "npz": NPZ}

_LUMINANCE = np.array([299, 587, 114], np.uint32)
"""Weights of red, green and blue in a grey value, in thousandths, as in Pillow."""

_AT_ONCE = 4096


@dataclass(frozen=True)
class Concatenated(Source):
    """Several data sets as one: the classes of the second data set follow those of the first one, and so on.

    Images are brought to one shape: larger ones are reduced along their shorter side and cropped at their centre,
    smaller ones get a border of zeros. Grey images become colour images with three equal channels, or colour images
    become grey. The mean and the standard deviation are those of all training images, because the task of an image may
    be unknown when it is normalised.

    `Split(Concatenated(...), classes_per_task=10)` has one data set per task if each of them has ten classes.

    Attributes:
        sources: names of the data sets, as in `--dataset`, such as `"mnist"`. The value of a source's first setting
            follows a colon: `"TFDS:cars196"`, `"image_folder:flowers"`, `"npz:own.npz"`, `"emnist:letters"`.
        image_size: height and width of all images, in pixels.
        channels: 3 for colour, 1 for grey.

    Raises:
        UserError: if there are no sources; in `load`, if one is unknown or keeps its images on disk.
    """

    name: ClassVar[str] = "concatenated"

    sources: tuple[str, ...]
    image_size: int = 32
    channels: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        if not self.sources:
            raise ArgumentError("sources", self.sources, "give the name of at least one data set, such as mnist")
        check_counts(self, "image_size")
        if self.channels not in (1, 3):
            raise ArgumentError("channels", self.channels, "must be 1 or 3")

    @override
    def load(self, folder: Path) -> Dataset:
        parts = [self._shaped(converted(_source(name).load(folder), name)) for name in self.sources]
        first = np.cumsum([0, *(part.num_classes for part in parts)])[:-1].tolist()
        train, test = (
            (
                np.concatenate([getattr(part, split).images for part in parts]),
                np.concatenate([getattr(part, split).labels + start for part, start in zip(parts, first, strict=True)]),
            )
            for split in ("train", "test")
        )
        return dataset_of(train, test)

    @override
    def is_present(self, folder: Path) -> bool:
        return all(_source(name).is_present(folder) for name in self.sources)

    def _shaped(self, dataset: Dataset) -> Dataset:
        """Return a data set with images of the common shape."""
        train, test = (
            Samples(shaped(np.asarray(split.images), self.image_size, self.channels), np.asarray(split.labels))
            for split in (dataset.train, dataset.test)
        )
        return dataset._replace(train=train, test=test)


def _source(name: str) -> Source:
    """Return the source with a name, which a value of its first setting may follow.

    Raises:
        UserError: if there is no such source, the value is missing, or its images are on disk.
    """
    title, colon, value = name.partition(":")
    kind: Any = (SOURCES | _WITH_ARGUMENT).get(title) or registry.find("source", title)
    if title in _WITH_ARGUMENT and not value:
        raise UserError(f"source {title} needs a value; give {title}:VALUE, where VALUE is its {fields(kind)[0].name}")
    source = kind(value) if colon else kind()
    if source.on_disk:
        raise UserError(f"source {name} keeps its images on disk; data sets that are concatenated must be in memory")
    return source


def shaped(images: np.ndarray, size: int, channels: int) -> UInt8[np.ndarray, "images size size channels"]:
    """Bring images to a shape.

    Args:
        images: images from 0 to 255, `(images, height, width, channels)`.
        size: height and width of the result, in pixels.
        channels: 3 for colour, 1 for grey.
    """
    if images.dtype != np.uint8:
        images = np.rint(images).astype(np.uint8)
    if channels == 1 < images.shape[-1]:
        images = np.concatenate([_grey(images[at : at + _AT_ONCE]) for at in range(0, len(images), _AT_ONCE)])
    if min(images.shape[1:3]) > size:
        images = np.stack([_reduced(image, size) for image in images])
    for axis in (1, 2):
        images = _cropped_or_padded(images, size, axis)
    return np.repeat(images, channels // images.shape[-1], axis=-1)


def _grey(images: np.ndarray) -> np.ndarray:
    return ((images @ _LUMINANCE + 500) // 1000).astype(np.uint8)[..., None]


def _reduced(image: np.ndarray, size: int) -> np.ndarray:
    """Return an image whose shorter side has the given length."""
    height, width, channels = image.shape
    scale = size / min(height, width)
    picture = Image.fromarray(image.squeeze(-1) if channels == 1 else image)
    picture = picture.resize((round(scale * width), round(scale * height)), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(picture.height, picture.width, channels)


def _cropped_or_padded(images: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Return images with the given length along an axis, cropped or padded equally at both ends."""
    surplus = images.shape[axis] - size
    if surplus > 0:
        return images[(slice(None),) * axis + (slice(surplus // 2, surplus // 2 + size),)]
    before = -surplus // 2
    return np.pad(images, [(0, 0)] * axis + [(before, -surplus - before)] + [(0, 0)] * (images.ndim - axis - 1))
