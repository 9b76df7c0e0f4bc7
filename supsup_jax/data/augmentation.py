"""Random changes of training images, inside the jitted step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, UInt8


def crop_and_flip(
    images: UInt8[Array, "batch height width channels"], key: Key[Array, ""], padding: int
) -> UInt8[Array, "batch height width channels"]:
    """Every image moved by up to `padding` pixels either way, with black coming in, and mirrored half of the time.

    That is torchvision's `RandomCrop` with padding, then `RandomHorizontalFlip`.

    Args:
        images: images before they are normalised.
        key: a random key; every image of the batch draws of its own.
        padding: black pixels that are added on every side, before images of the same size are cut out.
    """
    offset_key, flip_key = jax.random.split(key)
    offsets = jax.random.randint(offset_key, (len(images), 2), 0, 2 * padding + 1)
    flips = jax.random.bernoulli(flip_key, shape=(len(images),))
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def one(
        image: UInt8[Array, "padded_height padded_width channels"], offset: Int[Array, "2"], flip: Bool[Array, ""]
    ) -> UInt8[Array, "height width channels"]:
        cropped = jax.lax.dynamic_slice(image, (*offset, 0), images.shape[1:])
        return jnp.where(flip, cropped[:, ::-1], cropped)

    # In a loop on two cores 1 ms for 128 images of 32 × 32; to gather pixels axis by axis 6 ms, all at once 9 ms.
    return jax.vmap(one)(padded, offsets, flips)
