"""Data sets, most of them as arrays in memory."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from supsup_jax.data.augmentation import Frames
from supsup_jax.data.images import Images


class Samples(NamedTuple):
    """The samples of a training or test set; a pytree.

    Attributes:
        images: uint8, or floats of 0 to 255, `(samples, height, width, channels)`; those of ImageNet are on disk, and
            some of them decoded are frames. Sources may return floats of 0 to 1, which are then multiplied by 255.
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


def summary(dataset: Dataset) -> dict[str, str]:
    """The number of images of each split, and a digest of their labels and of the names of their files, if any."""
    facts = {}
    for split in ("train", "test"):
        samples: Any = getattr(dataset, split)
        names = getattr(getattr(samples.images, "source", None), "paths", np.empty(0))
        content = np.asarray(samples.labels, "<i4").tobytes() + names.tobytes()
        digest = hashlib.sha256(content).hexdigest()[:12]
        facts[f"--data ({split})"] = f"{len(samples.labels)} images (digest {digest})"
    return facts
