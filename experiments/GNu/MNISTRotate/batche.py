"""MNISTRotate, 36 tasks 10 degrees apart, FC 1024-1024 with 10 outputs: BatchE.

Reproduces: the BatchE (GG) curve of Figure 5.

Command:    python experiments/GNu/MNISTRotate/batche.py --data ~/data

Expect:     not run in full. The paper has this curve as a picture only, beside SupSup (supsup.py), which has 96.2 %
            after 36 tasks here.
"""

import supsup_jax as ss

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTRotate/batche",
    dataset="mnist",
    benchmark="RotatedMNIST",
    network="FC1024",
    features=10,
    num_tasks=36,
    steps=1000,
    batch_size=128,
    method="BatchE",
    initializer="kaiming_normal",
    optimizer="Adam",
    learning_rate=1e-2,
    weights_learning_rate=1e-4,
    objective="entropy",
    search="exhaustive",
    eval_at=(2, 5, 10, 15, 20, 25, 30, 35, 36),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
