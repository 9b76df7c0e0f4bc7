"""MNISTRotate, 36 tasks 10 degrees apart, FC 1024-1024 with 500 outputs: BatchE with the task inferred by one gradient.

Reproduces: BatchE (GNu) of Figure 5, right: the coefficients are those of the rank-one matrices, and one gradient gives
            the derivatives of all tasks.

Command:    python experiments/GNu/MNISTRotate/batche_one_shot.py --data ~/data

Expect:     10 minutes on one CPU core. Task given: 92.4 % after 10 tasks, 92.1 % after 36. One gradient picks task 0,
            whose training also learned the weights, for all batches: 9.7 % after 10 tasks, 2.7 % after 36. The paper
            shows this curve only in a figure.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTRotate/batche_one_shot",
    tasks=data.Rotated(data.MNIST(), num_tasks=36),
    network=networks.FC1024(features=500, initializer=networks.kaiming_normal),
    method=methods.BatchE(),
    scenario=scenarios.GNu(ss.OneShot(ss.entropy), images_per_pick=128),
    training=ss.Training(
        steps=1000, batch_size=128, optimizer=optimizers.Adam(0.01, weight_decay=1e-4), weights_learning_rate=1e-4
    ),
    evaluate_at=(2, 5, 10, 15, 20, 25, 30, 35, 36),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
