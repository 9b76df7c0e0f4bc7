"""SplitImageNet, 100 tasks of 10 classes, ResNet-50: SupSup.

Reproduces: the SupSup rows of the table in Figure 2, left, a row for each --sparsity.

Command:    python experiments/GG/splitimagenet/rn50-supsup.py --gpu-sets "0,1|2,3" --data DIR

Expect:     a day or more on a GPU for each sparsity (estimated; no full run was made). The paper has 89.58, 88.68 and
            86.37 % for --sparsity 16, 8 and 4. With --tasks 0:100, every task is a separate run; the command collect
            combines the runs.
"""

import supsup_jax as ss
from supsup_jax import data, masks, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/splitimagenet/rn50-supsup",
    tasks=data.SplitImageNet(data.ImageNet(), num_tasks=100),
    network=networks.ResNet50(features=10),
    method=methods.SupSup(masks.ErdosRenyi(8)),
    scenario=scenarios.GG(test_batch_size=256),
    training=ss.Training(
        epochs=100,
        batch_size=256,
        optimizer=optimizers.Adam(1e-3, weight_decay=0.0),
        schedule="cosine",
        warmup_epochs=5,
    ),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__, er_scale=(8, 4, 16, 32))
