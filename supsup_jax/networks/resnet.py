"""Residual networks (He et al., 2016), composed of configurable parts."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from supsup_jax.errors import ArgumentError
from supsup_jax.networks.layers import BatchNorm, conv_general_dilated, max_pool
from supsup_jax.networks.network import SizedNetwork
from supsup_jax.system import devices

DType = Literal["float32", "bfloat16"]


class Block(nn.Module):
    """Base class of residual blocks.

    Attributes:
        channels: number of channels of the convolutions of 3 × 3.
        stride: stride of the first of these convolutions.
        conv: function that creates a convolution.
        norm: function that creates a batch norm.
    """

    channels: int
    stride: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    def shortcut(self, x: Float[Array, "batch _ _ _"], outputs: int, train: bool) -> Float[Array, "batch _ _ outputs"]:
        """Return the inputs, projected to the shape of the outputs if necessary; to be called within the block."""
        if self.stride == 1 and x.shape[-1] == outputs:
            return x
        x = self.conv(outputs, (1, 1), strides=self.stride, padding=0, name="shortcut_conv")(x)
        return self.norm(name="shortcut_bn")(x, train)


class BasicBlock(Block):
    """Two convolutions of 3 × 3 with a skip connection."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch _ _ _"], train: bool) -> Float[Array, "batch _ _ _"]:
        """Return the outputs of the block."""
        conv = partial(self.conv, self.channels, (3, 3), padding=1)
        y = nn.relu(self.norm(name="bn1")(conv(strides=self.stride, name="conv1")(x), train))
        y = self.norm(name="bn2")(conv(name="conv2")(y), train)
        return nn.relu(self.shortcut(x, self.channels, train) + y)


class Bottleneck(Block):
    """Convolutions of 1 × 1, 3 × 3 and 1 × 1, the last with four times the channels, with a skip connection."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch _ _ _"], train: bool) -> Float[Array, "batch _ _ _"]:
        """Return the outputs of the block, with four times the channels."""
        outputs = 4 * self.channels
        y = self.conv(self.channels, (1, 1), padding=0, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train))
        y = self.conv(self.channels, (3, 3), strides=self.stride, padding=1, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train))
        y = self.conv(outputs, (1, 1), padding=0, name="conv3")(y)
        y = self.norm(name="bn3")(y, train)
        return nn.relu(self.shortcut(x, outputs, train) + y)


class ResNet(nn.Module):
    """Stem, stages of blocks, global average pooling and a dense layer.

    Each stage after the first halves the resolution and doubles the channels.


    Attributes:
        blocks: number of blocks of each stage.
        channels: number of channels of the first stage.
        features: number of logits.
        block: function that creates a block, given its channels and stride.
        norm: function that creates a batch norm.
        large_images: whether the stem is that of ImageNet, which divides the resolution by 4: a convolution of 7 × 7
            with stride 2, and max pooling of 3 × 3 with stride 2. Otherwise the stem is a convolution of 3 × 3.
        dtype: type of the activations; weights, statistics and logits are float32.
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
        """Return the logits of a batch of images."""
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


@dataclass(frozen=True)
class GEMResNet18(SizedNetwork):
    """Narrow ResNet-18 of the SplitCIFAR100 experiments (Lopez-Paz and Ranzato, 2017), with 20 channels in the stem.

    Other attributes are documented at `SizedNetwork`.

    Attributes:
        affine: whether batch norm has gains and biases.
    """

    input_shape: tuple[int, ...] = (32, 32, 3)
    affine: bool = False

    head: ClassVar[str] = "linear"
    units: ClassVar[tuple[int, ...]] = (20,)

    @property
    def module(self) -> nn.Module:
        """Module of the network."""
        norm = partial(BatchNorm, affine=self.affine)
        return ResNet((2, 2, 2, 2), self.layer_sizes[0], self.features, BasicBlock, norm)


@dataclass(frozen=True)
class ImageNetResNet(SizedNetwork):
    """Base class of ResNets for ImageNet (He et al., 2016), with 64 channels in the stem.

    Other attributes are documented at `SizedNetwork`.

    Attributes:
        affine: whether batch norm has gains and biases.
        dtype: type of the activations, stored by name; a JAX dtype is accepted too. Weights, statistics and logits
            are float32.
        sync_bn: whether batch norm averages its statistics over all devices that share a batch, along the mapped axis
            `supsup_jax.system.devices.AXIS`.
    """

    input_shape: tuple[int, ...] = (224, 224, 3)
    _: KW_ONLY
    affine: bool = False
    dtype: DType | np.dtype | type = "float32"
    sync_bn: bool = False

    head: ClassVar[str] = "linear"
    units: ClassVar[tuple[int, ...]] = (64,)
    blocks: ClassVar[tuple[int, ...]]
    block: ClassVar[type[Block]]

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            name = jnp.dtype(self.dtype).name
        except TypeError:
            name = str(self.dtype)
        if name not in get_args(DType):
            raise ArgumentError("dtype", name, f"must be {' or '.join(get_args(DType))}")
        object.__setattr__(self, "dtype", name)

    @property
    def module(self) -> nn.Module:
        """Module of the network."""
        norm = partial(BatchNorm, affine=self.affine, axis_name=devices.AXIS if self.sync_bn else None)
        sizes = self.blocks, self.layer_sizes[0], self.features
        return ResNet(*sizes, self.block, norm, large_images=True, dtype=jnp.dtype(self.dtype))


@dataclass(frozen=True)
class ResNet18(ImageNetResNet):
    """ResNet-18 for ImageNet. Attributes are documented at `ImageNetResNet`."""

    blocks: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)
    block: ClassVar[type[Block]] = BasicBlock


@dataclass(frozen=True)
class ResNet50(ImageNetResNet):
    """ResNet-50, used by the SplitImageNet experiments. Attributes are documented at `ImageNetResNet`."""

    blocks: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)
    block: ClassVar[type[Block]] = Bottleneck


@dataclass(frozen=True)
class ResNet101(ImageNetResNet):
    """ResNet-101 for ImageNet. Attributes are documented at `ImageNetResNet`."""

    blocks: ClassVar[tuple[int, ...]] = (3, 4, 23, 3)
    block: ClassVar[type[Block]] = Bottleneck
