"""The layers that networks are put together from, where Flax has no equal of PyTorch's or XLA none as fast."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from supsup_jax import backend


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last, as PyTorch has it: its running variance is the unbiased one.

    The statistics are the collection `batch_stats`: `mean`, which starts at 0, and `var`, which starts at 1.

    Attributes:
        affine: whether there are gains (`scale`) and biases (`bias`), one of each a channel.
        momentum: the share of a new batch in the running statistics.
        epsilon: added to the variance.
        axis_name: a mapped axis over which the statistics of a batch are taken too, if any: of the devices that share
            the batch equally.
    """

    affine: bool = False
    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"], train: bool) -> Float[Array, "*batch channels"]:
        """Normalises with the statistics of this batch in training, and updates the running ones; else with those.

        Statistics are float32, whatever the inputs are.
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
        """The mean of each channel."""
        mean = x.mean(tuple(range(x.ndim - 1)))
        return jax.lax.pmean(mean, self.axis_name) if self.axis_name and not self.is_initializing() else mean


def conv_general_dilated(
    lhs: Float[Array, "batch height width inputs"],
    rhs: Float[Array, "window_height window_width inputs_of_group outputs"],
    window_strides: Sequence[int],
    padding: Any,
    **settings: Any,
) -> Float[Array, "batch out_height out_width outputs"]:
    """`jax.lax.conv_general_dilated`, to be handed to `flax.linen.Conv`, in the form that is fast on this backend.

    XLA's own convolution is slow on a CPU. There it is written as a sum of matrix products, one for each place in the
    window, of the images shifted to that place.

    Args:
        lhs: the images.
        rhs: the kernel.
        window_strides: one for each spatial axis.
        padding: `(before, after)` for each spatial axis, or a string.
        settings: further arguments of `jax.lax.conv_general_dilated`.
    """
    dilations = (*(settings.get("lhs_dilation") or ()), *(settings.get("rhs_dilation") or ()))
    plain = rhs.ndim == 4 and set(dilations) <= {1} and settings.get("feature_group_count", 1) == 1
    if backend.is_accelerator() or not plain or isinstance(padding, str):
        return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **settings)
    return _shifted_products(lhs, rhs, window_strides, padding)


def _shifted_products(images: Array, kernel: Array, strides: Sequence[int], padding: Any) -> Array:
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    batch, height, width, inputs = images.shape
    window_height, window_width, _, outputs = kernel.shape
    row_stride, column_stride = strides
    rows, columns = (height - window_height) // row_stride + 1, (width - window_width) // column_stride + 1
    total = jnp.zeros((batch * rows * columns, outputs), images.dtype)
    for row in range(window_height):
        for column in range(window_width):
            shifted = jax.lax.slice(
                images,
                (0, row, column, 0),
                (batch, row + (rows - 1) * row_stride + 1, column + (columns - 1) * column_stride + 1, inputs),
                (1, row_stride, column_stride, 1),
            )
            total += shifted.reshape(-1, inputs) @ kernel[row, column]
    return total.reshape(batch, rows, columns, outputs)


def max_pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch _ _ channels"]:
    """The maximum of windows of 3 × 3 in steps of 2, with a border that never is it.

    XLA's windows are slow on a CPU, their gradient above all: there it is the maximum of nine shifted images.
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
