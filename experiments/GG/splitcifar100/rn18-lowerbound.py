"""SplitCIFAR100, 20 tasks of 5 classes, GEMResNet18: the lower bound.

Reproduces: the lower bound that the text gives for Figure 2, right. One network is trained on all tasks in turn, with
            a new head for each task.

Command:    python experiments/GG/splitcifar100/rn18-lowerbound.py --gpu-sets "0|1|2|3" --seeds 5

Expect:     about 8 hours on two CPU cores (extrapolated; no full run was made). The paper has 24.5 % after 20 tasks.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/splitcifar100/rn18-lowerbound",
    tasks=data.SplitCIFAR100(data.CIFAR100(), num_tasks=20),
    network=networks.GEMResNet18(features=5, initializer=networks.pytorch_default, affine=True),
    method=methods.FineTuning(),
    scenario=scenarios.GG(),
    training=ss.Training(
        epochs=250,
        batch_size=128,
        optimizer=optimizers.Adam(1e-4, weight_decay=1e-4),
        weights_learning_rate=1e-3,
        schedule="cosine",
    ),
    seed=0,
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
