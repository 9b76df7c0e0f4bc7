"""SplitImageNet, 100 tasks of 10 classes, ResNet-50: BatchE.

Reproduces: the BatchE row of the table in Figure 2, left. The original has no script for it: this project chose the
            learning rates.

Command:    python experiments/GG/splitimagenet/rn50-batche.py --data DIR

Expect:     a day or more on a GPU (estimated; no full run was made). The paper has 81.50 %.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/splitimagenet/rn50-batche",
    tasks=data.SplitImageNet(data.ImageNet(), num_tasks=100),
    network=networks.ResNet50(features=10, initializer=networks.pytorch_default),
    method=methods.BatchE(),
    scenario=scenarios.GG(test_batch_size=256),
    training=ss.Training(
        epochs=100,
        batch_size=256,
        optimizer=optimizers.Adam(0.01, weight_decay=0.0),
        weights_learning_rate=1e-3,
        schedule="cosine",
        warmup_epochs=5,
    ),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
