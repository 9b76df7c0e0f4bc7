"""MNISTPerm, 250 tasks, FC 1024-1024 with 10 outputs: PSP.

Reproduces: the PSP (GG) curve of Figure 3, right.

Command:    python experiments/GNu/MNISTPerm/FC-250-tasks/psp.py --data ~/data

Expect:     27 minutes on one CPU core with --num-tasks 100. Task given: 97.27 % after 10 tasks (paper: 97.16 % ± 0.08),
            94.72 % after 50 (94.74 %) and 87.46 % after 100 (87.77 %); all 250 tasks were not run.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/FC-250-tasks/psp",
    tasks=data.Permuted(data.MNIST(), num_tasks=250),
    network=networks.FC1024(features=10, initializer=networks.xavier_normal),
    method=methods.PSP(),
    scenario=scenarios.GG(),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4), weights_learning_rate=1e-4),
    evaluate_at=(10, 50, 100, 150, 200, 250),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
