"""MNISTPerm, 250 tasks, LeNet 300-100 with 10 outputs: PSP.

Reproduces: the PSP (GG) curve of Figure 3, left.

Command:    python experiments/GNu/MNISTPerm/LeNet-250-tasks/psp.py --data ~/data

Expect:     16 minutes on two CPU cores, shared with other work. Task given: 95.0 % ± 0.2 after 10 tasks over five
            seeds (paper: 94.8 % ± 0.12); 83.7 % after 50 (about 83.5 %) and 36.5 % after 250 with seed 1.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/LeNet-250-tasks/psp",
    tasks=data.Permuted(data.MNIST(), num_tasks=250),
    network=networks.LeNet(features=10, initializer=networks.xavier_normal),
    method=methods.PSP(),
    scenario=scenarios.GG(),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4), weights_learning_rate=1e-4),
    evaluate_at=(10, 50, 100, 150, 200, 250),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
