"""SplitCIFAR100, 20 tasks of 5 classes, GEMResNet18: BatchE on random weights.

Reproduces: the BatchE (Rand W) point of Figure 2, right.

Command:    python experiments/GG/splitcifar100/rn18-batche-randw.py --gpu-sets "0|1|2|3" --seeds 5

Expect:     about 8 hours on two CPU cores (extrapolated; no full run was made). The paper shows this curve only in a
            figure, with 88 to 91 % for SupSup with large values of --sparsity.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/splitcifar100/rn18-batche-randw",
    tasks=data.SplitCIFAR100(data.CIFAR100(), num_tasks=20),
    network=networks.GEMResNet18(features=5, initializer=networks.pytorch_default),
    method=methods.BatchE(random_weights=True),
    scenario=scenarios.GG(),
    training=ss.Training(
        epochs=250, batch_size=128, optimizer=optimizers.Adam(0.1, weight_decay=1e-4), schedule="cosine"
    ),
    seed=0,
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
