"""Conversion of users' images and labels: pairs of arrays, and PyTorch data sets.

Integer images are from 0 to 255 (uint8), floats from 0 to 1. In memory the library holds all of them from 0 to 255.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from supsup_jax import arguments
from supsup_jax.errors import UserError, warn

_PAIR = "a pair (images, labels), or a data set of pairs (image, label)"

ROUNDING = 1e-3
"""Tolerance for floats outside 0 to 1, as resizing and bfloat16 produce them; such values are clipped."""


def opened(argument: str, data: Any) -> tuple[Any, Any]:
    """Separate images and labels.

    Args:
        argument: name of the argument, for messages.
        data: a pair (images, labels), or a PyTorch data set: a `Dataset` of pairs (image, label), a `TensorDataset` of
            two tensors, or a `DataLoader`.

    Raises:
        UserError: if `data` is none of these.
    """
    if isinstance(data, tuple | list):
        if hasattr(data, "train") and hasattr(data, "test"):
            raise UserError(f"{argument} must be {_PAIR}, not a whole {type(data).__name__}; give its train or test")
        if len(data) != 2:
            raise UserError(f"{argument} must be {_PAIR}, not a {type(data).__name__} of {len(data)}")
        return data[0], data[1]
    if isinstance(tensors := getattr(data, "tensors", None), tuple):
        return opened(argument, tensors)
    is_loader = hasattr(data, "batch_size") and hasattr(data, "dataset")
    # a DataLoader with batch_size=None and no batch sampler yields single images
    in_batches = is_loader and (data.batch_size is not None or getattr(data, "batch_sampler", None) is not None)
    is_dataset = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    is_array = isinstance(data, str | bytes | type | Mapping) or hasattr(data, "shape") or hasattr(data, "__array__")
    if is_array or not (is_loader or is_dataset):
        raise UserError(f"{argument} must be {_PAIR}, not a {type(data).__name__}")
    source: Any = data
    items: list[Any] = list(source) if is_loader else [source[row] for row in range(len(source))]
    for item in items:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UserError(f"{argument} must be {_PAIR}; its items are a {type(item).__name__}")
    if not items:
        raise UserError(f"{argument} is empty; give at least one image")
    images = [images_array("images", image, alone=not in_batches) for image, _ in items]
    if len({image.shape[in_batches:] for image in images}) > 1:
        raise UserError(f"the images of {argument} have different shapes; give images of one shape")
    if not in_batches:
        return np.stack(images), [_plain(label) for _, label in items]
    labels = [labels_array("labels", label) for _, label in items]
    if any(label.shape[:1] != image.shape[:1] for image, label in zip(images, labels, strict=True)):
        raise UserError(f"{argument} has batches without one label for each image; give one label for each")
    return np.concatenate(images), np.concatenate(labels)


def images_array(argument: str, given: Any, alone: bool = False) -> np.ndarray:
    """Convert images to an array whose last axis is the channels.

    PyTorch tensors with channels before height and width are transposed. Lists of integers from 0 to 255 become uint8.

    Args:
        argument: name of the argument, for messages.
        given: the images.
        alone: whether `given` is a single image.

    Raises:
        UserError: if the images cannot be converted.
    """
    images = arguments.array(argument, given)
    first = given
    while isinstance(first, list | tuple) and first:
        first = first[0]
    has_channels = arguments.is_tensor(first) and images.ndim == (3 if alone else 4)
    if has_channels and images.shape[-3] in (1, 3) and images.shape[-1] not in (1, 3):
        images = np.moveaxis(images, -3, -1)
    if type(first) is int and images.size and images.min() >= 0 and images.max() <= 255:
        images = images.astype(np.uint8)
    return images


def labels_array(argument: str, given: Any) -> np.ndarray:
    """Convert labels to an array.

    Raises:
        UserError: if the labels cannot be converted, or mix numbers and texts.
    """
    if not isinstance(given, list | tuple | range):
        labels = arguments.array(argument, given)
        if labels.dtype.kind not in "OT" or labels.ndim == 0:  # T: variable-length strings of NumPy 2
            return labels
        given = labels.tolist()
    given = [_plain(label) for label in given]
    if len({isinstance(label, str) for label in given}) > 1:
        raise UserError("the labels mix numbers and texts; give one or the other")
    return arguments.array(argument, given)


def _plain(label: Any) -> Any:
    """Return the number in a scalar array or tensor, and the value of a string enumeration; other labels unchanged."""
    if isinstance(label, str):
        return str.__str__(label)  # NumPy would convert str(label), which may be the member's name
    if getattr(label, "shape", None) == () and not isinstance(label, np.generic):
        return arguments.array("labels", label)[()]
    return label


def column(labels: np.ndarray, samples: int) -> str:
    """Return a hint how to convert labels to one per sample, for messages; empty if the shape is not a known one."""
    if labels.shape == (samples, 1):
        return "; convert a column with labels[:, 0]"
    is_table = labels.ndim == 2 and labels.shape[0] == samples and labels.dtype.kind in "biuf"
    if is_table and np.isin(labels, (0, 1)).all() and (labels.sum(-1) == 1).all():
        return "; convert one-hot labels with labels.argmax(1)"
    return ""


def held(images: np.ndarray, refuse: Callable[[str], UserError], where: str) -> np.ndarray:
    """Convert users' images to the range that the library holds in memory.

    Args:
        images: uint8 from 0 to 255, or floats from 0 to 1.
        refuse: function that returns an error for the description of a problem.
        where: origin of the images, for warnings.

    Returns:
        Images from 0 to 255 of the same shape, uint8 or float32.

    Raises:
        UserError: if the images have the wrong type or range.
    """
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        how = "; convert integers from 0 to 255 with images.astype('uint8')" if images.dtype.kind in "iu" else ""
        raise refuse(f"images are {images.dtype}; give uint8 from 0 to 255, or floats from 0 to 1{how}")
    low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
    if not np.isfinite(low) or not np.isfinite(high):
        problem = "they contain NaN or infinity"
        raise refuse(f"images have values from {low:g} to {high:g}: {problem}; give floats from 0 to 1, or uint8")
    if low < -ROUNDING or high > 1 + ROUNDING:
        how = "divide them by 255, or by their largest value" if low >= 0 else "mean and std normalise them later"
        raise refuse(f"images have values from {low:g} to {high:g}; give floats from 0 to 1, or uint8: {how}")
    if 0 < high <= 1 / 255 + 1e-6:
        warn(f"{where}: images have values up to {high:g}, where white is 1; were they divided by 255 twice?")
    images = np.asarray(images, np.float32)
    if low < 0 or high > 1:
        images = images.clip(0, 1)
    return images * np.float32(255)


def check_channels(where: str, image_shape: tuple[int, ...]) -> None:
    """Warn if images look as if their channels came first, as in PyTorch.

    Args:
        where: name of the argument or file, for the warning.
        image_shape: `(height, width, channels)`.
    """
    first, *_, last = image_shape
    if first in (1, 3) and last > 4 and len(image_shape) == 3:
        warn(
            f"{where}: images of shape {image_shape} have {last} channels; if the channels come first, move them "
            "to the end: np.moveaxis(images, 1, -1)"
        )


def check_statistics(where: str, mean: Any, std: Any) -> None:
    """Warn if a mean or standard deviation is impossible for images from 0 to 1.

    A mean of 0 and a standard deviation of 1 leave images unchanged.

    Args:
        where: name of the argument or data set, for the warning.
        mean: mean of each channel.
        std: standard deviation of each channel.
    """
    for name, given in (("mean", mean), ("std", std)):
        values = np.ravel(given).tolist()
        if impossible := [value for value in values if not 0 <= value <= 1]:
            scaled = ", ".join(f"{value / 255:.4g}" for value in values)
            instead = "" if min(values) < 0 else f"; divide a value for images from 0 to 255 by 255: {scaled}"
            warn(f"{where}: {name} {impossible[0]:g} is impossible for images scaled to 0 to 1{instead}")
