"""MNISTRotate, 36 tasks 10 degrees apart, FC 1024-1024 with 200 outputs: the upper bound, a network a task.

Reproduces: nothing that the paper draws; it shows the best that the network can do, beside the curves of Figure
            6 (Figure 5 of the camera-ready).

Command:    python experiments/GNu/MNISTRotate/upper_bound.py --data ~/data

Expect:     8 minutes on two CPU cores and 300 MB of disk (estimated; the full run was not made). SupSup has
            96.2 %, the bound should have more.
"""

from supsup_jax import launch
from supsup_jax.experiment import Experiment

EXPERIMENT = Experiment(
    name="GNu/MNISTRotate/upper_bound",
    dataset="mnist",
    benchmark="RotatedMNIST",
    network="FC1024",
    features=200,
    num_tasks=36,
    steps=1000,
    batch_size=128,
    method="UpperBound",
    initializer="kaiming_normal",
    learning_rate=1e-4,
    scenario="GG",
    eval_at=(2, 5, 10, 15, 20, 25, 30, 35, 36),
)

if __name__ == "__main__":
    launch.main(EXPERIMENT, __doc__)
