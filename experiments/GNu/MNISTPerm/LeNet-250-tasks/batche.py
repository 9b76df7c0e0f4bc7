"""MNISTPerm, 250 tasks, LeNet 300-100 with 10 outputs: BatchE.

Reproduces: the BatchE (GG) curve of Figure 3, left.

Command:    python experiments/GNu/MNISTPerm/LeNet-250-tasks/batche.py --data ~/data

Expect:     12 minutes on two CPU cores, shared with other work. Task given: 89.0 % ± 0.1 after 10 tasks over five seeds
            (paper: 88.86 %), 88.24 % after 250 with seed 1 (88.21 %). Task inferred by exhaustive search: 62 % with 10
            tasks, 19 % with 250.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/LeNet-250-tasks/batche",
    tasks=data.Permuted(data.MNIST(), num_tasks=250),
    network=networks.LeNet(features=10, initializer=networks.kaiming_normal),
    method=methods.BatchE(),
    scenario=scenarios.GNu(ss.Exhaustive(ss.entropy)),
    training=ss.Training(
        steps=1000, batch_size=128, optimizer=optimizers.Adam(0.01, weight_decay=1e-4), weights_learning_rate=1e-4
    ),
    evaluate_at=(10, 50, 100, 150, 200, 250),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
