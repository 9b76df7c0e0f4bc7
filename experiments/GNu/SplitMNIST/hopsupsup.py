"""SplitMNIST, 5 tasks of 2 digits: HopSupSup, all masks in two Hopfield memories of fixed size.

Reproduces: Section 3.5 of the paper, 97.43 %, and its recovery of masks in fewer than 30 gradient steps.

Command:    python experiments/GNu/SplitMNIST/hopsupsup.py --data ~/data

Expect:     22 seconds a seed on two CPU cores, shared with other work. 98.8 % with the 9 of 12 seeds where all masks
            are recovered, 79 to 83 % with the others; mean 94.18 % (paper: 97.43 %). The original itself loses a task
            in 2 of 4 seeds that were tried (78.99 % with seed 0), so the paper's number depends on its seeds.
            --through-memory --attempts 3 recovers all masks: 98.8 %. 99 updates are an epoch of the largest task.
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
