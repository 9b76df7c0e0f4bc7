"""MNISTPerm, 250 tasks, LeNet 300-100 with 10 outputs: PSP.

Reproduces: the PSP (GG) curve of Figure 3, left.

Command:    python experiments/GNu/MNISTPerm/LeNet-250-tasks/psp.py --data ~/data

Expect:     21 minutes on two CPU cores, with other work beside it. Task given: 93.75 % ± 0.55 after 10 tasks
            over four seeds (paper: 94.65 %); 83 % after 50, 37 % after 250.
"""

import supsup_jax as ss

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/LeNet-250-tasks/psp",
    dataset="mnist",
    network="LeNet",
    features=10,
    num_tasks=250,
    steps=1000,
    batch_size=128,
    method="PSP",
    initializer="xavier_normal",
    weights_learning_rate=1e-4,
    scenario="GG",
    eval_at=(10, 50, 100, 150, 200, 250),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
