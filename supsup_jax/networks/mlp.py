"""The fully connected networks of the MNIST experiments. They have no biases."""

from collections.abc import Sequence

from flax import linen as nn
from jaxtyping import Array, Float

from supsup_jax.networks.initializers import Initializer, signed_constant
from supsup_jax.networks.network import Network, at_least_one, layer_size


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


def LeNet(
    features: int,
    width: float = 1.0,
    input_shape: tuple[int, ...] = (28, 28, 1),
    initializer: Initializer = signed_constant,
) -> Network:
    """LeNet 300-100, as in "MNISTPerm, LeNet" of the paper: inputs-300-100-features.

    Args:
        features: outputs, the superfluous ones included.
        width: multiplies the hidden layers' sizes.
        input_shape: `(height, width, channels)` of an image.
        initializer: how kernels are drawn.
    """
    return Network(
        MLP((layer_size(300, width), layer_size(100, width), at_least_one(features))),
        input_shape,
        initializer,
        head="dense2",
    )


def FC1024(
    features: int,
    width: float = 1.0,
    input_shape: tuple[int, ...] = (28, 28, 1),
    initializer: Initializer = signed_constant,
) -> Network:
    """The network of the paper's larger MNIST experiments: inputs-1024-1024-features.

    Args:
        features: outputs, the superfluous ones included.
        width: multiplies the hidden layers' sizes.
        input_shape: `(height, width, channels)` of an image.
        initializer: how kernels are drawn.
    """
    return Network(
        MLP((layer_size(1024, width), layer_size(1024, width), at_least_one(features))),
        input_shape,
        initializer,
        head="dense2",
    )


def BNNet(
    features: int,
    width: float = 1.0,
    input_shape: tuple[int, ...] = (28, 28, 1),
    initializer: Initializer = signed_constant,
) -> Network:
    """The network of HopSupSup: inputs-2048-2048-features with gains of batch norm, and Swish.

    Args:
        features: outputs.
        width: multiplies the hidden layers' sizes.
        input_shape: `(height, width, channels)` of an image.
        initializer: how kernels are drawn.
    """
    layers = BNMLP((layer_size(2048, width), layer_size(2048, width), at_least_one(features)))
    return Network(layers, input_shape, initializer, head="dense2", uses_batch=True)
