"""MNISTRotate, 36 tasks 10 degrees apart, FC 1024-1024 with 200 outputs: SupSup, binary search with H.

Reproduces: the SupSup (GNu) curve of Figure 5.

Command:    python experiments/GNu/MNISTRotate/supsup.py --data ~/data

Expect:     17 minutes on two CPU cores, 13 of them for the evaluations. Task inferred: 96.5 % after 2 tasks, 96.2 %
            after 36; the task of 99.7 % of the batches is inferred correctly.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTRotate/supsup",
    tasks=data.Rotated(data.MNIST(), num_tasks=36),
    network=networks.FC1024(features=200),
    method=methods.SupSup(),
    scenario=scenarios.GNu(ss.Binary(ss.entropy), images_per_pick=128),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4)),
    evaluate_at=(2, 5, 10, 15, 20, 25, 30, 35, 36),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
