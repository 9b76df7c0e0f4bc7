"""MNISTRotate, 36 tasks 10 degrees apart, FC 1024-1024 with 10 outputs: BatchE.

Reproduces: the BatchE (GG) curve of Figure 5.

Command:    python experiments/GNu/MNISTRotate/batche.py --data ~/data

Expect:     6 minutes on two CPU cores, shared with other work. Task given: 94.6 % after 2 tasks, 92.7 % after 10,
            92.4 % after 36. Task inferred by exhaustive search: 57 % with 2 tasks, 17 % with 36. The paper shows this
            curve only in a figure.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTRotate/batche",
    tasks=data.Rotated(data.MNIST(), num_tasks=36),
    network=networks.FC1024(features=10, initializer=networks.kaiming_normal),
    method=methods.BatchE(),
    scenario=scenarios.GNu(ss.Exhaustive(ss.entropy)),
    training=ss.Training(
        steps=1000, batch_size=128, optimizer=optimizers.Adam(0.01, weight_decay=1e-4), weights_learning_rate=1e-4
    ),
    evaluate_at=(2, 5, 10, 15, 20, 25, 30, 35, 36),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
