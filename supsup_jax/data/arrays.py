"""Containers for data sets."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from supsup_jax.data.augmentation import Frames
from supsup_jax.data.images import Images


class Samples(NamedTuple):
    """The samples of a training or test set; a pytree.

    Attributes:
        images: uint8, or floats from 0 to 255, `(samples, height, width, channels)`. ImageNet's images stay on disk
            (`Images`); decoded ones are `Frames`. Sources may return floats from 0 to 1, which are multiplied by 255.
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
    """The training and test samples of a data set.

    Attributes:
        train: the training samples.
        test: the test samples.
        mean: mean of each channel, of images scaled to [0, 1].
        std: standard deviation of each channel, of images scaled to [0, 1].
    """

    train: Samples
    test: Samples
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape `(height, width, channels)` of an image as the network sees it."""
        images: Any = self.train.images
        return images.shape[1:]

    @property
    def num_classes(self) -> int:
        """Number of classes: the largest training label plus 1."""
        return int(self.train.labels.max()) + 1


NORMALISATION = {
    "mnist": ((0.1307,), (0.3081,)),
    "cifar100": ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of each channel, as in the original code."""


def summary(dataset: Dataset) -> dict[str, str]:
    """Return each split's number of images, and a digest of its labels and of its file names, if it has any."""
    facts = {}
    for split in ("train", "test"):
        samples: Any = getattr(dataset, split)
        names = getattr(getattr(samples.images, "source", None), "paths", np.empty(0))
        content = np.asarray(samples.labels, "<i4").tobytes() + names.tobytes()
        digest = hashlib.sha256(content).hexdigest()[:12]
        facts[f"--data ({split})"] = f"{len(samples.labels)} images (digest {digest})"
    return facts
