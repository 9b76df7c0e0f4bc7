"""MNISTPerm, 250 tasks, FC 1024-1024 with 10 outputs: BatchE.

Reproduces: the BatchE (GG) curve of Figure 3, right.

Command:    python experiments/GNu/MNISTPerm/FC-250-tasks/batche.py --data ~/data

Expect:     54 minutes on one CPU core. Task given: 92.45 % after 50 tasks (paper: 92.40 %) and 92.32 % after 250 (92.32
            %). Task inferred by exhaustive search: 75 % with 10 tasks, 40 % with 250.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/FC-250-tasks/batche",
    tasks=data.Permuted(data.MNIST(), num_tasks=250),
    network=networks.FC1024(features=10, initializer=networks.kaiming_normal),
    method=methods.BatchE(),
    scenario=scenarios.GNu(ss.Exhaustive(ss.entropy)),
    training=ss.Training(
        steps=1000, batch_size=128, optimizer=optimizers.Adam(0.01, weight_decay=1e-4), weights_learning_rate=1e-4
    ),
    evaluate_at=(10, 50, 100, 150, 200, 250),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
