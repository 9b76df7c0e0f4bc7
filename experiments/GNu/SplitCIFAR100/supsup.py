"""SplitCIFAR100, 20 tasks of 5 classes, GEMResNet18: SupSup with the task inferred from the entropy H.

Reproduces: no figure: the paper gives the task in its splits of classes (GG/splitcifar100). The tasks are the same.

Command:    python experiments/GNu/SplitCIFAR100/supsup.py --data ~/data
            python -m supsup_jax evaluate RUN --task inferred --search exhaustive
            infers the tasks of the same run by another search; --images-per-pick 8 from eight images.

Expect:     with --epochs 10, 38 minutes on one CPU core: 76.8 % with the task given. One gradient finds 5 % of the
            tasks, which is chance; trying every task finds 19 % from one image, 41 % from 8 and 60 % from 128
            (docs/idea.md). The 250 epochs were not run.
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
