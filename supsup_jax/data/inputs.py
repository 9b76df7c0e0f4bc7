"""What images are to a network: their shape, how they are normalised, and how many classes a task may have."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, get_type_hints

import jax.numpy as jnp
import numpy as np
import typeguard
from jaxtyping import Array, Float, UInt8

from supsup_jax.arguments import convert, integer
from supsup_jax.data.pairs import check_statistics, held, images_array
from supsup_jax.errors import UserError


class Inputs(NamedTuple):
    """What a network sees, and what it answers.

    Attributes:
        image_shape: `(height, width, channels)`.
        mean: for each channel, subtracted from images scaled to [0, 1].
        std: for each channel, what they are then divided by.
        num_classes: classes of a task, or of the largest; the first outputs of the network stand for them.
    """

    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int

    @classmethod
    def new(
        cls,
        image_shape: Sequence[int] | Any,
        num_classes: int | Any,
        mean: float | Sequence[float] | Any = (0.0,),
        std: float | Sequence[float] | Any = (1.0,),
    ) -> "Inputs":
        """Checked inputs, in any types; the mean and the standard deviation may be one number for all channels.

        Args:
            image_shape: `(height, width, channels)`.
            num_classes: classes of a task at most.
            mean: for each channel, or for all, subtracted from images scaled to [0, 1].
            std: for each channel, or for all, what they are then divided by.

        Raises:
            UserError: if one of them cannot be used.
        """
        shape = convert("image_shape", image_shape, tuple[int, ...])
        if len(shape) != 3 or min(shape) < 1:
            raise UserError(f"images have shape {shape}; give (height, width, channels), such as (28, 28, 1)")
        classes = integer("num_classes", num_classes)
        if classes < 1:
            raise UserError(f"there are {classes} classes; give how many a task has at most, from 1")
        mean, std = (convert(name, given, tuple[float, ...]) for name, given in (("mean", mean), ("std", std)))
        for name, values in (("mean", mean), ("std", std)):
            if np.shape(values) not in ((1,), (shape[-1],)):
                raise UserError(
                    f"{name} is {values}; give one number, or one for each of {shape[-1]} channels, in a tuple"
                )
            if not np.isfinite(values).all() or (name == "std" and not (np.array(values) >= 1e-6).all()):
                raise UserError(f"{name} is {values}; give finite numbers, and for std above 0")
        check_statistics("data.Inputs", mean, std)
        each = [tuple(np.broadcast_to(values, shape[-1]).astype(float).tolist()) for values in (mean, std)]
        return cls(shape, each[0], each[1], classes)

    def checked(self) -> "Inputs":
        """The same, checked as by `new`.

        Raises:
            UserError: if one of the fields cannot be used.
        """
        return Inputs.new(self.image_shape, self.num_classes, self.mean, self.std)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Inputs":
        """From plain data, in which lists stand for tuples.

        Raises:
            UserError: if it has another form.
        """
        try:
            shape, mean, std = (tuple(plain[name]) for name in ("image_shape", "mean", "std"))
            inputs = cls(shape, mean, std, plain["num_classes"])
            for name, expected in get_type_hints(cls).items():
                typeguard.check_type(getattr(inputs, name), expected)
        except (LookupError, TypeError, typeguard.TypeCheckError):
            raise UserError(f"what images are to a run cannot be read ({plain}); restore it from a copy") from None
        return inputs

    def normalise(
        self,
        images: UInt8[Array | np.ndarray, "batch height width channels"]
        | Float[Array | np.ndarray, "batch height width channels"],
    ) -> Float[Array, "batch height width channels"]:
        """Images of 0 to 255 with the mean subtracted, divided by the standard deviation."""
        scale = 1 / (255 * np.asarray(self.std, np.float32))
        shift = np.asarray(self.mean, np.float32) / np.asarray(self.std, np.float32)
        channels = (1,) * (len(images.shape) - 1) + (-1,)
        return jnp.asarray(images, jnp.float32) * scale.reshape(channels) - shift.reshape(channels)

    def images(self, given: Any) -> np.ndarray:
        """What a user gives as images, checked.

        Args:
            given: uint8 of 0 to 255, or floats of 0 to 1, of any library; `(images, height, width, channels)`, or with
                the channels first, as PyTorch has them. Where there is one channel, its axis may be missing, and
                images may be rows of all pixels, as scikit-learn has them.

        Returns:
            Images of 0 to 255, uint8 or float32, `(images, height, width, channels)`.

        Raises:
            UserError: if they have another shape, type or range.
        """
        images, shape = images_array("images", given), self.image_shape
        if images.ndim == 4 and images.shape[1:] != shape == (*images.shape[2:], images.shape[1]):
            images = np.moveaxis(images, 1, -1)
        if shape[-1:] == (1,) and images.shape[1:] == (math.prod(shape),):
            images = images.reshape(-1, *shape)
        if self.image_shape[-1:] == (1,) and images.shape[1:] == self.image_shape[:-1]:
            images = images[..., None]
        if images.ndim != 1 + len(self.image_shape) or images.shape[1:] != self.image_shape:
            expected = ", ".join(map(str, ("images", *self.image_shape)))
            raise UserError(f"the images have shape {images.shape}; give an array of shape ({expected})")
        if not len(images):
            raise UserError("there are no images; give at least one")
        return held(images, lambda problem: UserError(f"the {problem}"), "data")
