"""MNISTRotate, 36 tasks 10 degrees apart, FC 1024-1024 with 200 outputs: the lower bound, one network.

Reproduces: nothing that the paper draws; it shows what is left where nothing protects earlier tasks, beside the
            curves of Figure 6 (Figure 5 of the camera-ready).

Command:    python experiments/GNu/MNISTRotate/lower_bound.py --data ~/data

Expect:     10 minutes on two CPU cores (estimated; the full run was not made). SupSup has 96.2 %, the bound
            should fall far below.
"""

from supsup_jax import launch
from supsup_jax.experiment import Experiment

EXPERIMENT = Experiment(
    name="GNu/MNISTRotate/lower_bound",
    dataset="mnist",
    benchmark="RotatedMNIST",
    network="FC1024",
    features=200,
    num_tasks=36,
    steps=1000,
    batch_size=128,
    method="LowerBound",
    initializer="kaiming_normal",
    weights_learning_rate=1e-4,
    scenario="GG",
    eval_at=(2, 5, 10, 15, 20, 25, 30, 35, 36),
)

if __name__ == "__main__":
    launch.main(EXPERIMENT, __doc__)
