"""Add a network: a small convolutional network with channels and kernel size as flags.

The network is a Flax Linen module. A dataclass holds its arguments and creates the
module. It is independent of masks and tasks. The experiment has five tasks of two
handwritten digits each, with the task given.

    python add_a_network.py
    python add_a_network.py --channels 16 --kernel 5
    python add_a_network.py --network LeNet
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
from flax import linen as nn

import supsup_jax as ss
from supsup_jax import data, networks, optimizers, scenarios
from supsup_jax.errors import ArgumentError


class CNN(nn.Module):
    """Two convolutions and a dense layer, without biases."""

    outputs: int
    channels: int
    kernel: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits of images of shape `(batch, height, width, channels)`."""
        window = (self.kernel, self.kernel)
        for channels in (self.channels, 2 * self.channels):
            x = nn.relu(nn.Conv(channels, window, use_bias=False)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        return nn.Dense(self.outputs, use_bias=False, name="head")(x)


@ss.register
@dataclass(frozen=True)
class SmallCNN(networks.Network):
    """Small convolutional network.

    Attributes:
        features: outputs; those beyond the classes are superfluous neurons.
        channels: channels of the first convolution; the second has twice as many.
        kernel: height and width of the convolutions' kernels.
        input_shape: shape of an image; the experiment sets it to that of the data set.
        initializer: initialiser of the kernels.
    """

    features: int = 10
    channels: int = 8
    kernel: int = 3
    input_shape: tuple[int, ...] = (28, 28, 1)
    initializer: networks.Initializer | networks.InitializerName = "signed_constant"

    head: ClassVar[str] = "head"  # for methods with separate heads

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("features", "channels", "kernel"):
            if getattr(self, name) < 1:
                raise ArgumentError(name, getattr(self, name), "must be at least 1")

    @property
    def module(self) -> nn.Module:
        """Linen module with these arguments."""
        return CNN(self.features, self.channels, self.kernel)


EXPERIMENT = ss.Experiment(
    name="small_cnn",
    tasks=data.Split(data.Digits(), classes_per_task=2, num_tasks=5),
    network=SmallCNN(),
    scenario=scenarios.GG(),
    training=ss.Training(steps=100, batch_size=32, optimizer=optimizers.RMSprop(3e-3)),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
