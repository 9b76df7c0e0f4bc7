"""MNISTPerm, 10 tasks, LeNet 300-100: ExSSNeT.

Reproduces: nothing: the paper (Yadav and Bansal, 2022) has no permuted MNIST.

Command:    python experiments/GG/MNISTPerm/exssnet.py --data ~/data
            --method SupSup trains masks only; --density 0.05 makes them sparser.

Expect:     94.6 % (SupSup: 90.7 %), 91.6 % with density 0.05 (82.3 %) and 72.6 % with density 0.02 (50.7 %). Training
            takes half a minute on one CPU core.
"""

import supsup_jax as ss
from supsup_jax import data, masks, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/MNISTPerm/exssnet",
    tasks=data.Permuted(data.MNIST(), num_tasks=10),
    network=networks.LeNet(features=10),
    method=methods.ExSSNeT(masks.TopK(0.1)),
    scenario=scenarios.GG(),
    training=ss.Training(
        steps=1000, batch_size=128, optimizer=optimizers.Adam(1e-3, weight_decay=0.0), weights_learning_rate=1e-3
    ),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
