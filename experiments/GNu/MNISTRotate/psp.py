"""MNISTRotate, 36 tasks 10 degrees apart, FC 1024-1024 with 10 outputs: PSP.

Reproduces: the PSP (GG) curve of Figure 5.

Command:    python experiments/GNu/MNISTRotate/psp.py --data ~/data

Expect:     17 minutes on two CPU cores, shared with other work. Task given: 97.5 % after 2 tasks, 97.1 % after 10 and
            95.7 % after 36; SupSup (supsup.py), which infers the task, has 96.2 %. The paper shows this curve only in a
            figure.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTRotate/psp",
    tasks=data.Rotated(data.MNIST(), num_tasks=36),
    network=networks.FC1024(features=10, initializer=networks.xavier_normal),
    method=methods.PSP(),
    scenario=scenarios.GG(),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4), weights_learning_rate=1e-4),
    evaluate_at=(2, 5, 10, 15, 20, 25, 30, 35, 36),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
