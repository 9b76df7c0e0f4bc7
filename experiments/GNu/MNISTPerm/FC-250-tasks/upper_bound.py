"""MNISTPerm, 250 tasks, FC 1024-1024 with 500 outputs: the upper bound, a network a task.

Reproduces: the upper bound of Figure 4, right (Figure 3 of the camera-ready).

Command:    python experiments/GNu/MNISTPerm/FC-250-tasks/upper_bound.py --data ~/data

Expect:     1 hour on two CPU cores and 2.4 GB of disk (estimated; the full run was not made). Paper: 96.76 %
            after 10 tasks, 96.61 % after 250.
"""

from supsup_jax import launch
from supsup_jax.experiment import Experiment

EXPERIMENT = Experiment(
    name="GNu/MNISTPerm/FC-250-tasks/upper_bound",
    dataset="mnist",
    network="FC1024",
    features=500,
    num_tasks=250,
    steps=1000,
    batch_size=128,
    method="UpperBound",
    initializer="kaiming_normal",
    learning_rate=1e-4,
    scenario="GG",
    eval_at=(10, 50, 100, 150, 200, 250),
)

if __name__ == "__main__":
    launch.main(EXPERIMENT, __doc__)
