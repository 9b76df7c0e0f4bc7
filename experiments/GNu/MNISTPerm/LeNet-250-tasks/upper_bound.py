"""MNISTPerm, 250 tasks, LeNet 300-100 with 100 outputs: the upper bound, a network a task.

Reproduces: the upper bound of Figure 4, left (Figure 3 of the camera-ready).

Command:    python experiments/GNu/MNISTPerm/LeNet-250-tasks/upper_bound.py --data ~/data

Expect:     5 minutes on two CPU cores. 95.3 % after 10 and after 250 tasks (paper: 94.95 % and 94.87 %).
"""

from supsup_jax import launch
from supsup_jax.experiment import Experiment

EXPERIMENT = Experiment(
    name="GNu/MNISTPerm/LeNet-250-tasks/upper_bound",
    dataset="mnist",
    network="LeNet",
    features=100,
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
