"""Residual networks (He et al., 2016), put together from parts that are handed in."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from supsup_jax.networks.initializers import Initializer, signed_constant
from supsup_jax.networks.layers import BatchNorm, conv_general_dilated, max_pool
from supsup_jax.networks.network import Network, at_least_one, layer_size


class Block(nn.Module):
    """What a block is made of.

    Attributes:
        channels: of its convolutions of 3 × 3.
        stride: of the first of these.
        conv: makes a convolution.
        norm: makes a batch norm.
    """

    channels: int
    stride: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    def shortcut(self, x: Float[Array, "batch _ _ _"], outputs: int, train: bool) -> Float[Array, "batch _ _ outputs"]:
        """What came in, in the shape of what comes out; to be called within the block."""
        if self.stride == 1 and x.shape[-1] == outputs:
            return x
        x = self.conv(outputs, (1, 1), strides=self.stride, padding=0, name="shortcut_conv")(x)
        return self.norm(name="shortcut_bn")(x, train)


class BasicBlock(Block):
    """Two convolutions of 3 × 3, and what came in added to what comes out."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch _ _ _"], train: bool) -> Float[Array, "batch _ _ _"]:
        """The block's outputs."""
        conv = partial(self.conv, self.channels, (3, 3), padding=1)
        y = nn.relu(self.norm(name="bn1")(conv(strides=self.stride, name="conv1")(x), train))
        y = self.norm(name="bn2")(conv(name="conv2")(y), train)
        return nn.relu(self.shortcut(x, self.channels, train) + y)


class Bottleneck(Block):
    """Convolutions of 1 × 1, 3 × 3 and 1 × 1, the last to four times the channels, and what came in added to it."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch _ _ _"], train: bool) -> Float[Array, "batch _ _ _"]:
        """The block's outputs, of four times the channels."""
        outputs = 4 * self.channels
        y = self.conv(self.channels, (1, 1), padding=0, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train))
        y = self.conv(self.channels, (3, 3), strides=self.stride, padding=1, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train))
        y = self.conv(outputs, (1, 1), padding=0, name="conv3")(y)
        y = self.norm(name="bn3")(y, train)
        return nn.relu(self.shortcut(x, outputs, train) + y)


class ResNet(nn.Module):
    """A stem, stages of blocks, each with half the resolution and twice the channels, and the mean of all places.

    Attributes:
        blocks: blocks of each stage.
        channels: of the first stage.
        features: the logits.
        block: makes a block, from its channels and stride.
        norm: makes a batch norm.
        large_images: whether the stem is ImageNet's, which leaves a quarter of the resolution: a convolution of 7 × 7
            in steps of 2, and the maximum of 3 × 3 in steps of 2. Else it is a convolution of 3 × 3.
        dtype: of the activations; the weights, the statistics and the logits are float32.
    """

    blocks: Sequence[int]
    channels: int
    features: int
    block: Callable[..., nn.Module]
    norm: Callable[..., Any]
    large_images: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"], train: bool) -> Float[Array, "batch outputs"]:
        """Logits of a batch of images."""
        conv = partial(nn.Conv, use_bias=False, conv_general_dilated=conv_general_dilated, dtype=self.dtype)
        window, stride = (7, 2) if self.large_images else (3, 1)
        x = conv(self.channels, (window, window), strides=stride, padding=window // 2, name="conv1")(x)
        x = nn.relu(self.norm(name="bn1")(x, train))
        if self.large_images:
            x = max_pool(x)
        for stage, blocks in enumerate(self.blocks):
            for index in range(blocks):
                stride = 2 if stage and not index else 1
                settings = self.channels * 2**stage, stride, conv, self.norm
                x = self.block(*settings, name=f"layer{stage + 1}_{index}")(x, train)
        x = x.mean((1, 2), dtype=jnp.float32)
        return nn.Dense(self.features, use_bias=False, name="linear")(x)


def GEMResNet18(
    features: int,
    width: float = 1.0,
    input_shape: tuple[int, ...] = (32, 32, 3),
    initializer: Initializer = signed_constant,
    affine: bool = False,
) -> Network:
    """The narrow ResNet-18 of the SplitCIFAR100 experiments (Lopez-Paz and Ranzato, 2017): 20 channels in its stem.

    Args:
        features: outputs.
        width: multiplies the channels.
        input_shape: `(height, width, channels)` of an image.
        initializer: how kernels are drawn.
        affine: whether batch norm has gains and biases.
    """
    module = ResNet(
        (2, 2, 2, 2), layer_size(20, width), at_least_one(features), BasicBlock, partial(BatchNorm, affine=affine)
    )
    return Network(module, input_shape, initializer, head="linear")


def ResNet18(features: int, **settings: Any) -> Network:
    """ResNet-18 for ImageNet. Arguments are those of `ResNet50`."""
    return _imagenet_resnet((2, 2, 2, 2), BasicBlock, features, **settings)


def ResNet50(features: int, **settings: Any) -> Network:
    """ResNet-50 (He et al., 2016), as the SplitImageNet experiments have it: 64 channels in its stem.

    Args:
        features: outputs.
        settings: of these, by name: `width`, which multiplies the channels; `input_shape`, `(height, width, channels)`
            of an image, by default 224 × 224 in colour; `initializer`, how kernels are drawn; `affine`, whether batch
            norm has gains and biases; `dtype`, of the activations; `axis_name`, of an axis over which batch norm
            takes its statistics too.
    """
    return _imagenet_resnet((3, 4, 6, 3), Bottleneck, features, **settings)


def ResNet101(features: int, **settings: Any) -> Network:
    """ResNet-101 for ImageNet. Arguments are those of `ResNet50`."""
    return _imagenet_resnet((3, 4, 23, 3), Bottleneck, features, **settings)


def _imagenet_resnet(
    blocks: Sequence[int],
    block: Callable[..., nn.Module],
    features: int,
    width: float = 1.0,
    input_shape: tuple[int, ...] = (224, 224, 3),
    initializer: Initializer = signed_constant,
    affine: bool = False,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
) -> Network:
    norm = partial(BatchNorm, affine=affine, axis_name=axis_name)
    module = ResNet(blocks, layer_size(64, width), at_least_one(features), block, norm, large_images=True, dtype=dtype)
    return Network(module, input_shape, initializer, head="linear")
