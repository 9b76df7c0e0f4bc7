"""SplitImageNet, 100 tasks of 10 classes, ResNet-50: the upper bound.

Reproduces: the upper bound's row of the table in Figure 2, left. The original has no script for it: the learning rate
            is that of SupSup.

Command:    python experiments/GG/splitimagenet/rn50-upperbound.py --data DIR

Expect:     a day or more on a GPU (estimated; no full run was made). The paper has 92.55 %.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/splitimagenet/rn50-upperbound",
    tasks=data.SplitImageNet(data.ImageNet(), num_tasks=100),
    network=networks.ResNet50(features=10, initializer=networks.pytorch_default, affine=True),
    method=methods.UpperBound(),
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
    ss.main(EXPERIMENT, __doc__)
