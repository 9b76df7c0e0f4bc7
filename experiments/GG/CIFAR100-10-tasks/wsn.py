"""CIFAR-100, 10 tasks of 10 classes, AlexNet for small images: Winning Subnetworks.

Reproduces: CIFAR-100 Split of the paper (Kang et al., ICML 2022) with capacity c = 0.5. Network, batch size, epochs and
            optimizer are those of its code, with these differences: no dropout, one masked last layer instead of a
            separate one for each task, batch-norm statistics of the training, and a cosine schedule instead of a
            learning rate that is halved when a validation loss stalls.

Command:    python experiments/GG/CIFAR100-10-tasks/wsn.py --data ~/data

Expect:     73.8 % with --epochs 10, 2.5 minutes per task on one CPU core; the 50 epochs were not run. The paper
            has 76.38 ± 0.34 %.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

import supsup_jax as ss
from supsup_jax import data, masks, methods, networks, optimizers, scenarios
from supsup_jax.networks.layers import BatchNorm, conv_general_dilated


class Layers(nn.Module):
    """Three convolutions with pooling and three dense layers, without biases."""

    channels: tuple[int, ...]
    units: tuple[int, ...]
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the logits of a batch of images."""
        conv = partial(nn.Conv, padding=0, use_bias=False, conv_general_dilated=conv_general_dilated)
        for number, (channels, size) in enumerate(zip(self.channels, (4, 3, 2), strict=True), start=1):
            x = conv(channels, (size, size), name=f"conv{number}")(x)
            x = nn.relu(BatchNorm(name=f"bn{number}")(x, train))
            height, width = x.shape[1] // 2, x.shape[2] // 2
            x = x[:, : 2 * height, : 2 * width].reshape(len(x), height, 2, width, 2, channels).max((2, 4))
        x = x.reshape(len(x), -1)
        for number, units in enumerate(self.units, start=1):
            x = nn.Dense(units, use_bias=False, name=f"fc{number}")(x)
            x = nn.relu(BatchNorm(name=f"bn{number + 3}")(x, train))
        return nn.Dense(self.features, use_bias=False, name="last")(x)


@ss.register
@dataclass(frozen=True)
class AlexNet(networks.SizedNetwork):
    """AlexNet for images of 32 × 32 pixels, as used by HAT, GPM and WSN, with batch norm."""

    input_shape: tuple[int, ...] = (32, 32, 3)

    head: ClassVar[str] = "last"
    units: ClassVar[tuple[int, ...]] = (64, 128, 256, 2048, 2048)

    @property
    def module(self) -> nn.Module:
        """Module of the network."""
        return Layers(self.layer_sizes[:3], self.layer_sizes[3:], self.features)


EXPERIMENT = ss.Experiment(
    name="GG/CIFAR100-10-tasks/wsn",
    tasks=data.Split(data.CIFAR100(), classes_per_task=10, num_tasks=10),
    network=AlexNet(features=10, initializer=networks.pytorch_default),
    method=methods.WSN(masks.TopK(0.5)),
    scenario=scenarios.GG(),
    training=ss.Training(
        epochs=50,
        batch_size=64,
        optimizer=optimizers.Adam(1e-3, weight_decay=0.0),
        weights_learning_rate=1e-3,
        schedule="cosine",
    ),
    seed=0,
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
