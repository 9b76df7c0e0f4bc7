"""Conversion and check of images: every data set holds them from 0 to 255 in memory, `(height, width, channels)`.

Users pass floats from 0 to 1. Custom sources and data sets may return either range.
"""

from typing import Any

import numpy as np

from supsup_jax import arguments
from supsup_jax.data.arrays import Dataset, Samples
from supsup_jax.data.augmentation import Frames
from supsup_jax.data.images import Images
from supsup_jax.data.pairs import ROUNDING, check_statistics, held, images_array, opened
from supsup_jax.errors import UserError, warn


def converted(dataset: Dataset, where: str) -> Dataset:
    """Return a data set as the library holds it: NumPy arrays, and floats from 0 to 255.

    If no float is above 1, images are taken to be from 0 to 1 and multiplied by 255. Grey images without an axis for
    their channel get one. Other images are not changed.

    Args:
        dataset: data set of a source or of the user.
        where: name of the source, for messages.

    Raises:
        UserError: if it is not a `Dataset`, or holds no arrays.
    """
    if not isinstance(dataset, Dataset):
        raise arguments.wrong_type(f"{where}: data set", dataset, "a data.Dataset, such as data.Arrays(...).load()")
    splits = {"train": dataset.train, "test": dataset.test}
    train, test = (_in_numpy(split, f"{where}: {name}") for name, split in splits.items())
    if _is_from_0_to_1(train.images):

        def scaled(split: Samples, name: str) -> Samples:
            def refuse(problem: str) -> UserError:
                return UserError(f"{where}: {name} {problem}")

            return split._replace(images=held(np.asarray(split.images), refuse, f"{where}: {name}"))

        train, test = scaled(train, "train"), scaled(test, "test")
    return dataset._replace(train=train, test=test)


def check(dataset: Dataset, where: str) -> None:
    """Check images, mean and standard deviation of a data set: shapes, types, and floats from 0 to 255.

    Raises:
        UserError: if they have the wrong shape or type, contain NaN, or are from 0 to 1. `converted` converts images
            from 0 to 1.
    """
    for split, samples in (("train", dataset.train), ("test", dataset.test)):
        _check_images(samples.images, f"{where}: {split}")
    if isinstance(dataset.train.images, Frames):  # ImageNet's, decoded for a task
        return
    tested: Any = dataset.test.images
    shape, test_shape = dataset.image_shape, tested.shape[1:]
    if shape != test_shape:
        raise UserError(f"{where}: training images have shape {shape}, test images {test_shape}; give both one shape")
    for name, given in (("mean", dataset.mean), ("std", dataset.std)):
        try:
            values = arguments.convert(name, given, tuple[float, ...])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if len(values) not in (1, shape[-1]) or not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
            above = " above 0" if name == "std" else ""
            raise UserError(f"{where}: {name} is {values}; give a number{above} for each of {shape[-1]} channels")
    check_statistics(where, dataset.mean, dataset.std)


def _check_images(images: Any, where: str) -> None:
    """Check the images of one split; those on disk are checked as they are decoded."""
    if isinstance(images, Images | Frames):
        return
    if np.ndim(images) != 4 or 0 in np.shape(images)[1:]:
        raise UserError(f"{where} images have shape {np.shape(images)}; give (samples, height, width, channels)")
    if images.dtype.kind not in "iufV":  # V: bfloat16
        raise UserError(f"{where} images are {images.dtype}; give uint8 from 0 to 255, or floats from 0 to 1")
    low, high = _ends(images) or (0.0, 0.0)
    if not np.isfinite((low, high)).all():
        raise UserError(f"{where} images contain NaN or infinity; give finite numbers")
    if _is_from_0_to_1(images):
        raise UserError(
            f"{where} images are floats from 0 to 1, and a Dataset holds floats from 0 to 255; make it with "
            "data.Arrays(train=(images, labels), test=..., mean=..., std=...).load(), or multiply them by 255"
        )
    if low < -255 * ROUNDING or high > 255 * (1 + ROUNDING):
        warn(f"{where} images have values from {low:g} to {high:g}; a Dataset holds floats from 0 to 255")


def _in_numpy(split: Samples, where: str) -> Samples:
    images: Any
    images, labels = opened(where, split)
    if not isinstance(images, np.ndarray | Images | Frames):
        images = images_array("images", images)
    if isinstance(images, np.ndarray) and images.ndim == 3:
        images = images[..., None]
    return Samples(images, labels if isinstance(labels, np.ndarray) else arguments.array("labels", labels))


def _is_from_0_to_1(images: Any) -> bool:
    ends = _ends(images)
    return ends is not None and ends[0] >= -ROUNDING and 0 < ends[1] <= 1 + ROUNDING


def _ends(images: Any) -> tuple[float, float] | None:
    """Return the smallest and the largest value of floats, or `None` for other images."""
    if isinstance(images, Images | Frames) or np.asarray(images).dtype.kind != "f" or not np.size(images):
        return None
    return float(np.min(images)), float(np.max(images))
