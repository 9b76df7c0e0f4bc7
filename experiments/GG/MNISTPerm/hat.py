"""MNISTPerm, 10 tasks, LeNet 300-100: HAT.

Reproduces: the experiment of the paper's appendix (Serrà et al., ICML 2018) in small: its network is wider, and it
            trains up to 200 epochs with SGD.

Command:    python experiments/GG/MNISTPerm/hat.py --data ~/data

Expect:     90.6 %: 93.3 % in the first eight tasks, and 79.7 % in the last two, for which few units are left.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/MNISTPerm/hat",
    tasks=data.Permuted(data.MNIST(), num_tasks=10),
    network=networks.LeNet(features=10, initializer=networks.pytorch_default),
    method=methods.HAT(),
    scenario=scenarios.GG(),
    training=ss.Training(
        steps=1000, batch_size=128, optimizer=optimizers.Adam(1e-3, weight_decay=0.0), weights_learning_rate=1e-3
    ),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
