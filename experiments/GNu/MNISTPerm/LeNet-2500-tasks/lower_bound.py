"""MNISTPerm, 2,500 tasks, LeNet 300-100 with 10 outputs: the lower bound.

Reproduces: the lower bound of Figure 4: the accuracy of all tasks at the end (the column "task given"). One network is
            trained on all tasks in turn, with a new head for each task.

Command:    python experiments/GNu/MNISTPerm/LeNet-2500-tasks/lower_bound.py --data ~/data
            upper_bound.py shares this run: the script that is called first creates it, the other one shows it.

Expect:     100 tasks take 1.5 minutes on two CPU cores; all 2,500 tasks were not run. Task given: 70.3 % ± 3.0 after 10
            tasks (paper: 72.2 % ± 1.4), 40.5 % ± 1.5 after 50 (42.1 % ± 1.7) and 31.5 % ± 0.7 after 100 (31.7 %) over
            five seeds; 21.6 % after 250 with seed 1.

Option:     --method LowerBound has one head for all tasks.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/LeNet-2500-tasks/bounds",
    tasks=data.Permuted(data.MNIST(), num_tasks=2500),
    network=networks.LeNet(features=10, initializer=networks.kaiming_normal),
    method=methods.FineTuning(),
    scenario=scenarios.GG(),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4), weights_learning_rate=1e-4),
    evaluate_at=(1, 2, 4, 5, 10, 15, 20, 30, 50, 100, 250, 500, 1000, 1500, 2000, 2500),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__, shares_run=True)
