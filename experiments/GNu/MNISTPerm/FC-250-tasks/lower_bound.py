"""MNISTPerm, 250 tasks, FC 1024-1024 with 500 outputs: the lower bound, one network.

Reproduces: nothing that the paper draws; it shows what is left where nothing protects earlier tasks, beside the
            curves of Figure 4, right (Figure 3 of the camera-ready).

Command:    python experiments/GNu/MNISTPerm/FC-250-tasks/lower_bound.py --data ~/data

Expect:     1.1 hours on two CPU cores (estimated; the full run was not made). With LeNet 73 % after 10 tasks,
            16 % after 250.
"""

from supsup_jax import launch
from supsup_jax.experiment import Experiment

EXPERIMENT = Experiment(
    name="GNu/MNISTPerm/FC-250-tasks/lower_bound",
    dataset="mnist",
    network="FC1024",
    features=500,
    num_tasks=250,
    steps=1000,
    batch_size=128,
    method="LowerBound",
    initializer="kaiming_normal",
    weights_learning_rate=1e-4,
    scenario="GG",
    eval_at=(10, 50, 100, 150, 200, 250),
)

if __name__ == "__main__":
    launch.main(EXPERIMENT, __doc__)
