"""Five data sets (CIFAR-10, MNIST, SVHN, Fashion-MNIST, notMNIST), one per task, GEMResNet18: SupSup.

Reproduces: no figure of the paper. This benchmark is common in related work, with other networks.

Command:    python experiments/GG/fivedatasets/rn18-supsup.py --data ~/data

Expect:     not run here, because only MNIST was at hand; the tests run it on a small sample. Chance is 10 %.

Option:     --sources mnist digits npz:own.npz learns other data sets of ten classes, one after another.
"""

import supsup_jax as ss
from supsup_jax import data, masks, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/fivedatasets/rn18-supsup",
    tasks=data.FiveDatasets(num_tasks=5),
    network=networks.GEMResNet18(features=10),
    method=methods.SupSup(masks.ErdosRenyi(16)),
    scenario=scenarios.GG(),
    training=ss.Training(
        epochs=100, batch_size=128, optimizer=optimizers.Adam(1e-3, weight_decay=1e-4), schedule="cosine"
    ),
    seed=0,
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
