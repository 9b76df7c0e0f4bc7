"""MNISTRotate, 36 tasks 10 degrees apart, FC 1024-1024 with 500 outputs: BatchE with the task inferred by one gradient.

Reproduces: BatchE (GNu) of Figure 5, right: the coefficients are those of the rank-one matrices, and one gradient gives
            the derivatives of all tasks.

Command:    python experiments/GNu/MNISTRotate/batche_one_shot.py --data ~/data

Expect:     not run in full. On ten tasks of MNISTPerm with LeNet and 500 outputs, one gradient infers the task of 30 %
            of the batches from one image (chance: 10 %). The paper shows this curve only in a figure.
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
