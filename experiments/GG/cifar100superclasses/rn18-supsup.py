"""CIFAR-100 superclasses, 20 tasks of 5 classes, GEMResNet18: SupSup.

Reproduces: no figure of the paper. This benchmark is common in related work, with other networks.

Command:    python experiments/GG/cifar100superclasses/rn18-supsup.py --data ~/data

Expect:     57.9 % with --epochs 5, 18 minutes on one CPU core; the 250 epochs, about 8 hours on two cores
            (extrapolated), were not run. Chance is 20 %.
"""

import supsup_jax as ss
from supsup_jax import data, masks, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/cifar100superclasses/rn18-supsup",
    tasks=data.CIFAR100Superclasses(data.CIFAR100(), num_tasks=20),
    network=networks.GEMResNet18(features=5),
    method=methods.SupSup(masks.ErdosRenyi(16)),
    scenario=scenarios.GG(),
    training=ss.Training(
        epochs=250, batch_size=128, optimizer=optimizers.Adam(1e-3, weight_decay=1e-4), schedule="cosine"
    ),
    seed=0,
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
