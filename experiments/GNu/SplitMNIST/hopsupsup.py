"""SplitMNIST, 5 tasks of 2 digits: HopSupSup stores all masks in two Hopfield memories of fixed size.

Reproduces: Section 3.5 of the paper: 97.43 %, with masks recovered in fewer than 30 gradient steps.

Command:    python experiments/GNu/SplitMNIST/hopsupsup.py --data ~/data

Expect:     22 seconds per seed on two CPU cores, shared with other work. 98.8 % for the 9 of 12 seeds with all masks
            recovered, 79 to 83 % for the others; mean 94.18 % (paper: 97.43 %). The original implementation does not
            recover one task's mask in 2 of 4 seeds (78.99 % with seed 0), so the paper's number depends on its seeds.
            --through-memory --attempts 3 recovers all masks: 98.8 %. 99 steps are one epoch of the largest task.
"""

import supsup_jax as ss
from supsup_jax import data, inference, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/SplitMNIST/hopsupsup",
    tasks=data.SplitMNIST(data.MNIST(), num_tasks=5),
    network=networks.BNNet(features=10),
    method=methods.HopSupSup(),
    scenario=scenarios.GNu(inference.Recovery(), test_batch_size=64),
    training=ss.Training(steps=99, batch_size=128, optimizer=optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4)),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
