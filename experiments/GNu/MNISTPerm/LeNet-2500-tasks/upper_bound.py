"""MNISTPerm, 2,500 tasks, LeNet 300-100 with 500 outputs: the upper bound, a network a task.

Reproduces: the upper bound of Figure 5 (Figure 4 of the camera-ready).

Command:    python experiments/GNu/MNISTPerm/LeNet-2500-tasks/upper_bound.py --data ~/data

Expect:     50 minutes on two CPU cores and 3.2 GB of disk (estimated; the full run was not made). Paper: 94.71
            %.
"""

from supsup_jax import launch
from supsup_jax.experiment import Experiment

EXPERIMENT = Experiment(
    name="GNu/MNISTPerm/LeNet-2500-tasks/upper_bound",
    dataset="mnist",
    network="LeNet",
    features=500,
    num_tasks=2500,
    steps=1000,
    batch_size=128,
    method="UpperBound",
    initializer="kaiming_normal",
    learning_rate=1e-4,
    scenario="GG",
    eval_at=(10, 500, 1000, 1500, 2000, 2500),
)

if __name__ == "__main__":
    launch.main(EXPERIMENT, __doc__)
