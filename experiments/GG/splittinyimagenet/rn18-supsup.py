"""SplitTinyImageNet, 40 tasks of 5 classes, GEMResNet18: SupSup.

Reproduces: no figure of the paper. This benchmark is common in related work, with other networks.

Command:    python experiments/GG/splittinyimagenet/rn18-supsup.py --data ~/data

Expect:     not run here, because the data set was not at hand; the tests run it on a small sample. Decoding the images
            takes about a minute on two CPU cores. Chance is 20 %.
"""

import supsup_jax as ss
from supsup_jax import data, masks, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/splittinyimagenet/rn18-supsup",
    tasks=data.SplitTinyImageNet(data.TinyImageNet(), num_tasks=40),
    network=networks.GEMResNet18(features=5),
    method=methods.SupSup(masks.ErdosRenyi(16)),
    scenario=scenarios.GG(),
    training=ss.Training(
        epochs=100, batch_size=128, optimizer=optimizers.Adam(1e-3, weight_decay=1e-4), schedule="cosine"
    ),
    seed=0,
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
