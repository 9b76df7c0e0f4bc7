"""The fully connected networks of the MNIST experiments. They have no biases."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from supsup_jax.networks.network import SizedNetwork


class MLP(nn.Module):
    """Dense layers with ReLU between them.

    Attributes:
        widths: outputs of each layer, the last one's being the logits.
    """

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."], train: bool) -> Float[Array, "batch outputs"]:
        """Logits of a batch of images of any shape."""
        x = x.reshape(len(x), -1)
        for index, width in enumerate(self.widths):
            x = nn.Dense(width, use_bias=False, name=f"dense{index}")(x)
            if index < len(self.widths) - 1:
                x = nn.relu(x)
        return x


class BNMLP(nn.Module):
    """Dense layers with batch norm and Swish between them; of the batch norm only gains are learned.

    Attributes:
        widths: outputs of each layer, the last one's being the logits.
    """

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."], train: bool) -> Float[Array, "batch outputs"]:
        """Logits of a batch of images of any shape; a batch's own statistics are used in training and test alike."""
        x = x.reshape(len(x), -1)
        for index, width in enumerate(self.widths):
            x = nn.Dense(width, use_bias=False, name=f"dense{index}")(x)
            if index < len(self.widths) - 1:
                # Over the batch instead of the features: a batch norm that keeps no running statistics.
                x = nn.LayerNorm(
                    epsilon=1e-5, use_bias=False, reduction_axes=0, use_fast_variance=False, name=f"gain{index}"
                )(x)
                x = nn.swish(x)
        return x


class _DenseNetwork(SizedNetwork):
    """A built-in network of dense layers, the last of which is `dense2`."""

    head: ClassVar[str] = "dense2"
    layers: ClassVar[type[MLP] | type[BNMLP]] = MLP

    @property
    def module(self) -> nn.Module:
        """The dense layers."""
        return self.layers((*self.layer_sizes, self.features))


@dataclass(frozen=True)
class LeNet(_DenseNetwork):
    """LeNet 300-100, as in "MNISTPerm, LeNet" of the paper: inputs-300-100-features.

    Attributes are explained at `SizedNetwork`.
    """

    units: ClassVar[tuple[int, ...]] = (300, 100)


@dataclass(frozen=True)
class FC1024(_DenseNetwork):
    """The network of the paper's larger MNIST experiments: inputs-1024-1024-features.

    Attributes are explained at `SizedNetwork`.
    """

    units: ClassVar[tuple[int, ...]] = (1024, 1024)


@dataclass(frozen=True)
class BNNet(_DenseNetwork):
    """The network of HopSupSup: inputs-2048-2048-features with gains of batch norm, and Swish.

    Attributes are explained at `SizedNetwork`.
    """

    units: ClassVar[tuple[int, ...]] = (2048, 2048)
    uses_batch: ClassVar[bool] = True
    layers: ClassVar[type[MLP] | type[BNMLP]] = BNMLP
