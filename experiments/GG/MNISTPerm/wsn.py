"""MNISTPerm, 10 tasks, two hidden layers of 100 units: Winning Subnetworks.

Reproduces: Permuted MNIST of the paper (Kang et al., ICML 2022) with capacity c = 0.5: network, batch size, epochs and
            optimizer are those of its code. That code also halves the learning rate when a validation loss stalls.

Command:    python experiments/GG/MNISTPerm/wsn.py --data ~/data

Expect:     96.3 % (paper: 96.24 ± 0.11); 4.5 minutes on one CPU core.
"""

from dataclasses import dataclass
from typing import ClassVar

import supsup_jax as ss
from supsup_jax import data, masks, methods, networks, optimizers, scenarios


@ss.register
@dataclass(frozen=True)
class MLP100(networks.LeNet):
    """LeNet with 100 units in both hidden layers."""

    units: ClassVar[tuple[int, ...]] = (100, 100)


EXPERIMENT = ss.Experiment(
    name="GG/MNISTPerm/wsn",
    tasks=data.Permuted(data.MNIST(), num_tasks=10),
    network=MLP100(features=10, initializer=networks.pytorch_default),
    method=methods.WSN(masks.TopK(0.5)),
    scenario=scenarios.GG(),
    training=ss.Training(
        epochs=5, batch_size=10, optimizer=optimizers.Adam(1e-3, weight_decay=0.0), weights_learning_rate=1e-3
    ),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
