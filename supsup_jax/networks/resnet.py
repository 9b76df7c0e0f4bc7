"""Residual networks (He et al., 2016), put together from parts that are handed in."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from supsup_jax.networks.initializers import Initializer, signed_constant
from supsup_jax.networks.layers import BatchNorm, conv_general_dilated
from supsup_jax.networks.network import Network

Conv = partial(nn.Conv, use_bias=False, conv_general_dilated=conv_general_dilated)


class BasicBlock(nn.Module):
    """Two convolutions of 3 × 3, and what came in added to what comes out.

    Attributes:
        channels: outputs.
        stride: of the first convolution.
        norm: makes a batch norm.
    """

    channels: int
    stride: int
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Float[Array, "batch _ _ _"], train: bool) -> Float[Array, "batch _ _ _"]:
        """The block's outputs."""
        conv = partial(Conv, self.channels, (3, 3), padding=1)
        y = nn.relu(self.norm(name="bn1")(conv(strides=self.stride, name="conv1")(x), train))
        y = self.norm(name="bn2")(conv(name="conv2")(y), train)
        if self.stride > 1 or x.shape[-1] != self.channels:
            x = Conv(self.channels, (1, 1), strides=self.stride, padding=0, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_bn")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A stem, stages of blocks, each with half the resolution and twice the channels, and the mean of all places.

    Attributes:
        blocks: blocks of each stage.
        channels: of the first stage.
        features: the logits.
        block: makes a block, from its channels and stride.
        norm: makes a batch norm.
    """

    blocks: Sequence[int]
    channels: int
    features: int
    block: Callable[..., nn.Module]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"], train: bool) -> Float[Array, "batch outputs"]:
        """Logits of a batch of images."""
        x = Conv(self.channels, (3, 3), padding=1, name="conv1")(x)
        x = nn.relu(self.norm(name="bn1")(x, train))
        for stage, blocks in enumerate(self.blocks):
            for index in range(blocks):
                stride = 2 if stage and not index else 1
                channels = self.channels * 2**stage
                x = self.block(channels, stride, norm=self.norm, name=f"layer{stage + 1}_{index}")(x, train)
        return nn.Dense(self.features, use_bias=False, name="linear")(x.mean((1, 2)))


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
    module = ResNet((2, 2, 2, 2), int(20 * width), features, BasicBlock, partial(BatchNorm, affine=affine))
    return Network(module, input_shape, initializer, head="linear")
