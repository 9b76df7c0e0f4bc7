"""SplitCIFAR100, 20 tasks of 5 classes, GEMResNet18: SupSup with the task inferred from the entropy H.

Reproduces: no figure: the paper gives the task in its splits of classes (GG/splitcifar100). The tasks are the same.

Command:    python experiments/GNu/SplitCIFAR100/supsup.py --data ~/data
            python -m supsup_jax evaluate RUN --task inferred --search exhaustive
            infers the tasks of the same run by another search; --images-per-pick 8 from eight images.

Expect:     not run in full; a day or more on two CPU cores (estimated). If tasks are classes of one data set, one
            gradient infers the tasks much less often than 100 % (docs/idea.md).
"""

import supsup_jax as ss
from supsup_jax import data, masks, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/SplitCIFAR100/supsup",
    tasks=data.SplitCIFAR100(data.CIFAR100(), num_tasks=20),
    network=networks.GEMResNet18(features=10),
    method=methods.SupSup(masks.ErdosRenyi(16)),
    scenario=scenarios.GNu(ss.OneShot(ss.entropy)),
    training=ss.Training(
        epochs=250, batch_size=128, optimizer=optimizers.Adam(1e-3, weight_decay=1e-4), schedule="cosine"
    ),
    evaluate_at=(2, 5, 10, 20),
    seed=0,
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
