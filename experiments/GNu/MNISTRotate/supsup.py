"""MNISTRotate, 36 tasks 10 degrees apart, FC 1024-1024 with 200 outputs: SupSup, binary search with H.

Reproduces: the SupSup (GNu) curve of Figure 5.

Command:    python experiments/GNu/MNISTRotate/supsup.py --data ~/data

Expect:     17 minutes on two CPU cores, 13 of them for the evaluations. Task inferred: 96.5 % after 2 tasks,
            96.2 % after 36, right for 99.7 % of the batches.
"""

import supsup_jax as ss

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTRotate/supsup",
    dataset="mnist",
    benchmark="RotatedMNIST",
    network="FC1024",
    features=200,
    num_tasks=36,
    steps=1000,
    batch_size=128,
    method="SupSup",
    learning_rate=1e-4,
    objective="entropy",
    search="binary",
    images_per_pick=128,
    eval_at=(2, 5, 10, 15, 20, 25, 30, 35, 36),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
