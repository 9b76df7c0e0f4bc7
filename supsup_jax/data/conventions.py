"""Conversion and check of the range of images: every data set holds them from 0 to 255 in memory.

Users pass floats from 0 to 1. Custom sources and data sets may return either range.
"""

from typing import Any

import numpy as np

from supsup_jax import arguments
from supsup_jax.data.arrays import Dataset, Samples
from supsup_jax.data.augmentation import Frames
from supsup_jax.data.images import Images
from supsup_jax.data.pairs import ROUNDING, check_statistics, held, images_array
from supsup_jax.errors import UserError, warn


def converted(dataset: Dataset, where: str) -> Dataset:
    """Return a data set as the library holds it: NumPy arrays, and floats from 0 to 255.

    If no float is above 1, images are taken to be from 0 to 1 and multiplied by 255. Other images are not changed.

    Args:
        dataset: data set of a source or of the user.
        where: name of the source, for messages.

    Raises:
        UserError: if it holds no arrays.
    """
    train, test = (_in_numpy(split) for split in (dataset.train, dataset.test))
    if _is_from_0_to_1(train.images):

        def scaled(split: Samples, name: str) -> Samples:
            def refuse(problem: str) -> UserError:
                return UserError(f"{where}: {name} {problem}")

            return split._replace(images=held(np.asarray(split.images), refuse, f"{where}: {name}"))

        train, test = scaled(train, "train"), scaled(test, "test")
    return dataset._replace(train=train, test=test)


def check(dataset: Dataset, where: str) -> None:
    """Check that floats are from 0 to 255, as `Samples` holds them.

    Raises:
        UserError: if they are from 0 to 1. `converted` converts such images.
    """
    images = dataset.train.images
    if _is_from_0_to_1(images):
        raise UserError(
            f"{where}: images are floats from 0 to 1, and a Dataset holds floats from 0 to 255; make it with "
            "data.Arrays(train=(images, labels), test=..., mean=..., std=...).load(), or multiply them by 255"
        )
    if (ends := _ends(images)) is not None and (ends[0] < -255 * ROUNDING or ends[1] > 255 * (1 + ROUNDING)):
        warn(f"{where}: images have values from {ends[0]:g} to {ends[1]:g}; a Dataset holds floats from 0 to 255")
    check_statistics(where, dataset.mean, dataset.std)


def _in_numpy(split: Samples) -> Samples:
    images: Any = split.images
    if not isinstance(images, np.ndarray | Images | Frames):
        images = images_array("images", images)
    labels: Any = split.labels
    return Samples(images, labels if isinstance(labels, np.ndarray) else arguments.array("labels", labels))


def _is_from_0_to_1(images: Any) -> bool:
    ends = _ends(images)
    return ends is not None and ends[0] >= -ROUNDING and 0 < ends[1] <= 1 + ROUNDING


def _ends(images: Any) -> tuple[float, float] | None:
    """Return the smallest and the largest value of floats, or `None` for other images."""
    if isinstance(images, Images | Frames) or np.asarray(images).dtype.kind != "f" or not np.size(images):
        return None
    return float(np.min(images)), float(np.max(images))
