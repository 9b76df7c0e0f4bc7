"""MNISTPerm, 2,500 tasks, LeNet 300-100 with 10 outputs: the upper bound.

Reproduces: the upper bound of Figure 4: the mean of each task's accuracy right after it was learned (the column "right
            after learning"). One network is trained on all tasks in turn, with a new head for each task.

Command:    python experiments/GNu/MNISTPerm/LeNet-2500-tasks/upper_bound.py --data ~/data
            lower_bound.py shares this run: the script that is called first creates it, the other one shows it.

Expect:     100 tasks take 1.5 minutes on two CPU cores; all 2,500 tasks were not run. Right after learning:
            94.89 % ± 0.04 after 10 tasks and 94.97 % ± 0.05 after 100 over five seeds, 94.86 % after 250 with seed 1
            (paper: 94.71 % after 10 and after 2,500 tasks; Figure 3 has 94.94 % for the same network).

Option:     --method UpperBound trains an independent network for each task.
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
