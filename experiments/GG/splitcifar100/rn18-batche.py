"""SplitCIFAR100, 20 tasks of 5 classes, GEMResNet18: BatchE on weights that the first task trains.

Reproduces: BatchE as the text describes it for Figure 2, right: the first task trains the weights, later tasks only
            their vectors. The original has no script for it: the learning rates are those of its separate heads for
            the weights, and of BatchE (Rand W) for the vectors.

Command:    python experiments/GG/splitcifar100/rn18-batche.py --gpu-sets "0|1|2|3" --seeds 5

Expect:     56.3 % with --epochs 5, 18 minutes on one CPU core; the 250 epochs, about 8 hours on two cores
            (extrapolated), were not run. The paper shows it without numbers; its figure has 88 to 91 % for SupSup with
            large values of --sparsity.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/splitcifar100/rn18-batche",
    tasks=data.SplitCIFAR100(data.CIFAR100(), num_tasks=20),
    network=networks.GEMResNet18(features=5, initializer=networks.pytorch_default),
    method=methods.BatchE(),
    scenario=scenarios.GG(),
    training=ss.Training(
        epochs=250,
        batch_size=128,
        optimizer=optimizers.Adam(0.1, weight_decay=1e-4),
        weights_learning_rate=1e-3,
        schedule="cosine",
    ),
    seed=0,
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
