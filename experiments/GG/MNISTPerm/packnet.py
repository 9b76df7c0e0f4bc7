"""MNISTPerm, 10 tasks, LeNet 300-100: PackNet.

Reproduces: nothing: the paper (Mallya and Lazebnik, CVPR 2018) has no permuted MNIST.

Command:    python experiments/GG/MNISTPerm/packnet.py --data ~/data

Expect:     96.2 %; 3 minutes on a shared machine.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/MNISTPerm/packnet",
    tasks=data.Permuted(data.MNIST(), num_tasks=10),
    network=networks.LeNet(features=10, initializer=networks.pytorch_default),
    method=methods.PackNet(keep=0.1),
    scenario=scenarios.GG(),
    training=ss.Training(
        steps=1000, batch_size=128, optimizer=optimizers.Adam(1e-3, weight_decay=0.0), weights_learning_rate=1e-3
    ),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
