"""SplitCIFAR100, 20 tasks of 5 classes, GEMResNet18: SupSup.

Reproduces: the SupSup curve of Figure 2, right, a point for each --sparsity.

Command:    python experiments/GG/splitcifar100/rn18-supsup.py --gpu-sets "0|1|2|3" --seeds 5

Expect:     about 8 hours for each run on two CPU cores (extrapolated; no full run was made). Task 0 of seed 0 at
            --sparsity 32 after 20 epochs: 77.2 %. An independent rerun of the original has about 90 % over 20 tasks
            with large values of --sparsity.
"""

import supsup_jax as ss
from supsup_jax import data, masks, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/splitcifar100/rn18-supsup",
    tasks=data.SplitCIFAR100(data.CIFAR100(), num_tasks=20),
    network=networks.GEMResNet18(features=5),
    method=methods.SupSup(masks.ErdosRenyi(16)),
    scenario=scenarios.GG(),
    training=ss.Training(
        epochs=250, batch_size=128, optimizer=optimizers.Adam(1e-3, weight_decay=1e-4), schedule="cosine"
    ),
    seed=0,
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__, er_scale=(1, 2, 4, 8, 16, 32))
