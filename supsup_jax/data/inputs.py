"""Description of a network's inputs: the images' shape and normalisation, and the number of classes."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, get_type_hints

import jax.numpy as jnp
import numpy as np
import typeguard
from jaxtyping import Array, Float, UInt8

from supsup_jax.arguments import convert, integer
from supsup_jax.data.pairs import check_channels, check_statistics, held, images_array
from supsup_jax.errors import UserError


class Inputs(NamedTuple):
    """Shape and normalisation of images, and the number of classes.

    Attributes:
        image_shape: shape `(height, width, channels)` of an image.
        mean: mean of each channel, of images scaled to [0, 1].
        std: standard deviation of each channel, of images scaled to [0, 1].
        num_classes: number of classes of a task, or of the largest task. The network's first outputs are their logits.
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
        """Create inputs from arguments of any types, and check them.

        Args:
            image_shape: shape `(height, width, channels)` of an image.
            num_classes: largest number of classes of a task.
            mean: mean of each channel, or one number for all channels, of images scaled to [0, 1].
            std: standard deviation of each channel, or one number for all channels, of images scaled to [0, 1].

        Raises:
            UserError: if an argument cannot be used.
        """
        shape = convert("image_shape", image_shape, tuple[int, ...])
        if len(shape) != 3 or min(shape) < 1:
            raise UserError(f"images have shape {shape}; give (height, width, channels), such as (28, 28, 1)")
        check_channels("data.Inputs", shape)
        classes = integer("num_classes", num_classes)
        if classes < 1:
            raise UserError(f"num_classes is {classes}; give the largest number of classes of a task, at least 1")
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
        """Return the same inputs, checked as by `new`.

        Raises:
            UserError: if one of the fields cannot be used.
        """
        return Inputs.new(self.image_shape, self.num_classes, self.mean, self.std)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Inputs":
        """Read inputs from plain data, in which tuples are lists.

        Raises:
            UserError: if the data have a different form.
        """
        try:
            shape, mean, std = (tuple(plain[name]) for name in ("image_shape", "mean", "std"))
            inputs = cls(shape, mean, std, plain["num_classes"])
            for name, expected in get_type_hints(cls).items():
                typeguard.check_type(getattr(inputs, name), expected)
        except (LookupError, TypeError, typeguard.TypeCheckError):
            raise UserError(f"the inputs of the run cannot be read ({plain}); restore it from a copy") from None
        return inputs

    def normalise(
        self,
        images: UInt8[Array | np.ndarray, "batch height width channels"]
        | Float[Array | np.ndarray, "batch height width channels"],
    ) -> Float[Array, "batch height width channels"]:
        """Subtract the mean from images from 0 to 255, and divide by the standard deviation."""
        scale = 1 / (255 * np.asarray(self.std, np.float32))
        shift = np.asarray(self.mean, np.float32) / np.asarray(self.std, np.float32)
        channels = (1,) * (len(images.shape) - 1) + (-1,)
        return jnp.asarray(images, jnp.float32) * scale.reshape(channels) - shift.reshape(channels)

    def images(self, given: Any) -> np.ndarray:
        """Check a user's images and convert them.

        Args:
            given: uint8 from 0 to 255, or floats from 0 to 1, as an array of any library, `(images, height, width,
                channels)`, or with the channels first, as in PyTorch. If there is one channel, its axis may be missing,
                and images may be rows of all pixels, as in scikit-learn.

        Returns:
            Images from 0 to 255, uint8 or float32, `(images, height, width, channels)`.

        Raises:
            UserError: if the images have the wrong shape, type or range.
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
