"""Fully connected networks of the MNIST experiments, without biases."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from supsup_jax.networks.network import Network, SizedNetwork


class MLP(nn.Module):
    """Dense layers with ReLU between them.

    Attributes:
        widths: number of outputs of each layer; the last layer returns the logits.
    """

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."], train: bool) -> Float[Array, "batch outputs"]:
        """Return the logits of a batch of images of any shape."""
        x = x.reshape(len(x), -1)
        for index, width in enumerate(self.widths):
            x = nn.Dense(width, use_bias=False, name=f"dense{index}")(x)
            if index < len(self.widths) - 1:
                x = nn.relu(x)
        return x


class BNMLP(nn.Module):
    """Dense layers with batch norm and Swish between them; the only parameters of batch norm are gains.

    Attributes:
        widths: number of outputs of each layer; the last layer returns the logits.
    """

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."], train: bool) -> Float[Array, "batch outputs"]:
        """Return the logits of a batch of images of any shape, always normalised by batch statistics."""
        x = x.reshape(len(x), -1)
        for index, width in enumerate(self.widths):
            x = nn.Dense(width, use_bias=False, name=f"dense{index}")(x)
            if index < len(self.widths) - 1:
                # Layer norm over the batch axis is a batch norm without running statistics.
                x = nn.LayerNorm(
                    epsilon=1e-5, use_bias=False, reduction_axes=0, use_fast_variance=False, name=f"gain{index}"
                )(x)
                x = nn.swish(x)
        return x


class _DenseNetwork(SizedNetwork):
    """Base class of built-in networks of dense layers; the last layer is `dense2`."""

    head: ClassVar[str] = "dense2"
    layers: ClassVar[type[MLP] | type[BNMLP]] = MLP

    @property
    def module(self) -> nn.Module:
        """Module of dense layers."""
        return self.layers((*self.layer_sizes, self.features))

    @property
    def is_dense(self) -> bool:
        """Whether the module has no gains, and no subclass runs it differently; see `Network`."""
        return type(self.module) is MLP and type(self).apply is Network.apply


@dataclass(frozen=True)
class LeNet(_DenseNetwork):
    """LeNet 300-100 of the paper's "MNISTPerm, LeNet": inputs-300-100-features.

    Attributes are documented at `SizedNetwork`.
    """

    units: ClassVar[tuple[int, ...]] = (300, 100)


@dataclass(frozen=True)
class FC1024(_DenseNetwork):
    """Network of the paper's larger MNIST experiments: inputs-1024-1024-features.

    Attributes are documented at `SizedNetwork`.
    """

    units: ClassVar[tuple[int, ...]] = (1024, 1024)


@dataclass(frozen=True)
class BNNet(_DenseNetwork):
    """Network of HopSupSup: inputs-2048-2048-features, with batch-norm gains and Swish.

    Attributes are documented at `SizedNetwork`.
    """

    units: ClassVar[tuple[int, ...]] = (2048, 2048)
    uses_batch: ClassVar[bool] = True
    layers: ClassVar[type[MLP] | type[BNMLP]] = BNMLP
