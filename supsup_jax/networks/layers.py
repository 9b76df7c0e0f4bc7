"""Layers that differ from Flax's: batch norm as in PyTorch, and convolution and pooling that are fast on CPUs."""

import functools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from supsup_jax.system import backend


class BatchNorm(nn.Module):
    """Batch norm over all axes except the last, as in PyTorch: the running variance is the unbiased one.

    The collection `batch_stats` holds the running statistics: `mean`, initially 0, and `var`, initially 1.

    Attributes:
        affine: whether each channel has a gain (`scale`) and a bias (`bias`).
        momentum: weight of the new batch in the running statistics.
        epsilon: constant added to the variance.
        axis_name: optional name of a mapped axis over which batch statistics are averaged as well: the axis of devices
            that share the batch equally.
    """

    affine: bool = False
    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"], train: bool) -> Float[Array, "*batch channels"]:
        """Normalise with batch statistics and update the running ones in training; else use the running statistics.

        Statistics are float32 for inputs of any type.
        """
        channels = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        if train:
            batch_mean = self._mean(x.astype(jnp.float32))
            batch_var = self._mean(jnp.square(x - batch_mean))
            if not self.is_initializing():
                samples = x.size // channels * (jax.lax.axis_size(self.axis_name) if self.axis_name else 1)
                unbiased = batch_var * samples / (samples - 1)
                mean.value += self.momentum * (batch_mean - mean.value)
                var.value += self.momentum * (unbiased - var.value)
        else:
            batch_mean, batch_var = mean.value, var.value
        gain = jax.lax.rsqrt(batch_var + self.epsilon)
        bias = -batch_mean * gain
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (channels,))
            gain, bias = gain * scale, bias * scale + self.param("bias", nn.initializers.zeros, (channels,))
        return (x * gain + bias).astype(x.dtype)

    def _mean(self, x: Array) -> Array:
        """Return the mean of each channel."""
        mean = x.mean(tuple(range(x.ndim - 1)))
        return jax.lax.pmean(mean, self.axis_name) if self.axis_name and not self.is_initializing() else mean


def conv_general_dilated(
    lhs: Float[Array, "batch height width inputs"],
    rhs: Float[Array, "window_height window_width inputs_of_group outputs"],
    window_strides: Sequence[int],
    padding: Any,
    **settings: Any,
) -> Float[Array, "batch out_height out_width outputs"]:
    """Compute `jax.lax.conv_general_dilated` in a form that is fast on the current backend, for `flax.linen.Conv`.

    XLA's convolution is slow on CPUs. There this function multiplies a matrix of patches (one row for each position of
    the window) by the kernel, for as many images at a time as fit into the cache. This form has no forward-mode
    derivative.

    Args:
        lhs: images.
        rhs: kernel.
        window_strides: stride along each spatial axis.
        padding: `(before, after)` for each spatial axis, or a string.
        settings: other arguments of `jax.lax.conv_general_dilated`.
    """
    dilations = (*(settings.get("lhs_dilation") or ()), *(settings.get("rhs_dilation") or ()))
    plain = rhs.ndim == 4 and set(dilations) <= {1} and settings.get("feature_group_count", 1) == 1
    if backend.is_accelerator() or not plain or isinstance(padding, str):
        return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **settings)
    padding = tuple((before, after) for before, after in padding)
    if any(size + sum(ends) < part for size, ends, part in zip(lhs.shape[1:3], padding, rhs.shape, strict=False)):
        return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **settings)  # no window fits: no outputs
    if tuple(window_strides) == (1, 1):
        return _unstrided(lhs, rhs, padding)
    return _as_product(lhs, rhs, window_strides, padding)


def _as_product(images: Array, kernel: Array, strides: Sequence[int], padding: tuple[tuple[int, int], ...]) -> Array:
    window, outputs = kernel.shape[:2], kernel.shape[-1]

    @jax.checkpoint  # gathering patches again for the gradient is faster than reading them from memory
    def multiply(_: None, images: Array) -> tuple[None, Array]:
        return None, _patches(images, window, strides, padding) @ kernel.reshape(-1, outputs)

    return backend.scan_chunks(multiply, None, _num_chunks(images, window, strides, padding), images)[1]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _unstrided(images: Array, kernel: Array, padding: tuple[tuple[int, int], ...]) -> Array:
    """`_as_product` with stride 1, whose gradients use only patches of the cotangents.

    The gradient of the images is the convolution of the cotangents with the reversed kernel; that of the kernel is the
    product of the images with the cotangents' patches. Automatic differentiation would have to add overlapping patches.
    """
    return _as_product(images, kernel, (1, 1), padding)


def _unstrided_forward(images: Array, kernel: Array, padding: Any) -> tuple[Array, tuple[Array, Array]]:
    return _unstrided(images, kernel, padding), (images, kernel)


def _unstrided_backward(padding: Any, saved: tuple[Array, Array], cotangents: Array) -> tuple[Array, Array]:
    images, kernel = saved
    height, width, inputs, outputs = kernel.shape
    opposite = tuple(
        (size - 1 - before, size - 1 - after) for size, (before, after) in zip((height, width), padding, strict=True)
    )
    reversed_kernel = kernel[::-1, ::-1].swapaxes(2, 3).reshape(-1, inputs)

    def add(total: Array, images: Array, cotangents: Array) -> tuple[Array, Array]:
        patches = _patches(cotangents, (height, width), (1, 1), opposite)
        return total + jnp.tensordot(images, patches, ((0, 1, 2), (0, 1, 2))), patches @ reversed_kernel

    parts = _num_chunks(cotangents, (height, width), (1, 1), opposite)
    zeros = jnp.zeros((inputs, height * width * outputs))
    total, to_images = backend.scan_chunks(add, zeros, parts, images, cotangents)
    to_kernel = total.reshape(inputs, height, width, outputs)[:, ::-1, ::-1].transpose(1, 2, 0, 3)
    return to_images, to_kernel.astype(kernel.dtype)


_unstrided.defvjp(_unstrided_forward, _unstrided_backward)


def _patches(images: Array, window: Sequence[int], strides: Sequence[int], padding: Any) -> Array:
    """Return the patches of all window positions, `(batch, rows, columns, window_height * window_width * inputs)`."""
    border = ((0, 0, 0), *((before, after, 0) for before, after in padding), (0, 0, 0))
    # Unlike jnp.pad, lax.pad accepts negative padding.
    images = jax.lax.pad(images, jnp.zeros((), images.dtype), border)
    rows, columns = (
        (size - part) // step + 1 for size, part, step in zip(images.shape[1:3], window, strides, strict=True)
    )
    stop = (len(images), (rows - 1) * strides[0] + 1, (columns - 1) * strides[1] + 1, images.shape[-1])
    covered = [
        jax.lax.slice(images[:, row:, column:], (0, 0, 0, 0), stop, (1, *strides, 1))
        for row in range(window[0])
        for column in range(window[1])
    ]
    return jnp.concatenate(covered, axis=-1)


def _num_chunks(images: Array, window: Sequence[int], *settings: Any) -> int:
    """Return the number of chunks of a batch such that the patches of one chunk fit into the cache."""
    if tuple(window) == (1, 1):
        return 1  # the images are the patches
    patches = jax.eval_shape(lambda: _patches(images, window, *settings))
    return min(len(images), math.ceil(backend.num_bytes(patches) / backend.slice_bytes()))


def max_pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch _ _ channels"]:
    """Return the maximum over windows of 3 × 3 with stride 2; the padding is never the maximum.

    XLA's pooling is slow on CPUs, above all its gradient. There this is the maximum of nine shifted images.
    """
    if backend.is_accelerator():
        border: Any = ((1, 1), (1, 1))
        return nn.max_pool(x, (3, 3), (2, 2), border)
    batch, height, width, channels = x.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = jnp.pad(x, border, constant_values=-jnp.inf)
    shifted = [
        jax.lax.slice(
            x, (0, row, column, 0), (batch, row + 2 * rows - 1, column + 2 * columns - 1, channels), (1, 2, 2, 1)
        )
        for row in range(3)
        for column in range(3)
    ]
    return functools.reduce(jnp.maximum, shifted)
