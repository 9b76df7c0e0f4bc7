"""Mean and standard deviation of the channels of a data set whose own are not published."""

from typing import Any

import numpy as np

_AT_ONCE = 1024


def mean_and_std(images: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measures images, scaled to [0, 1].

    The sums of uint8 are whole numbers, so the result is the same on every machine. 50,000 images of 32 × 32 × 3 take
    0.4 s, less than to recognise them in order to look up an earlier result; so nothing is stored.

    Args:
        images: uint8 or floats, of 0 to 255, `(samples, height, width, channels)`.

    Returns:
        The mean and the standard deviation of each channel; a constant channel has 1.0, so that it can be divided.
    """
    channels = images.shape[-1]
    kind = np.uint64 if images.dtype == np.uint8 else np.float64
    total, squares, count = np.zeros(channels, kind), np.zeros(channels, kind), images[..., 0].size
    for start in range(0, len(images), _AT_ONCE):
        part = np.asarray(images[start : start + _AT_ONCE])
        wide = part.reshape(-1, channels).astype(np.uint32 if kind is np.uint64 else np.float64)
        total += wide.sum(axis=0, dtype=kind)
        squares += (wide * wide).sum(axis=0, dtype=kind)
    # In Python's whole numbers, where there are some, nothing is lost before the last division.
    variances = [
        (square * count - whole * whole) / (count * count)
        for whole, square in zip(total.tolist(), squares.tolist(), strict=True)
    ]
    mean = tuple(whole / count / 255 for whole in total.tolist())
    return mean, tuple(max(variance, 0.0) ** 0.5 / 255 or 1.0 for variance in variances)
