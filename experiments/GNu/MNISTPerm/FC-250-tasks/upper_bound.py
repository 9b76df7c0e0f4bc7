"""MNISTPerm, 250 tasks, FC 1024-1024 with 10 outputs: the upper bound.

Reproduces: the upper bound of Figure 3, right: the mean of each task's accuracy right after it was learned (the column
            "right after learning"). One network is trained on all tasks in turn, with a new head for each task.

Command:    python experiments/GNu/MNISTPerm/FC-250-tasks/upper_bound.py --data ~/data
            lower_bound.py shares this run: the script that is called first creates it, the other one shows it.

Expect:     26 minutes on one CPU core. Right after learning: 96.72 % after 10 tasks (paper: 96.76 %), 96.63 % after 100
            (96.68 %) and 96.59 % after 250 (96.61 %).

Option:     --method UpperBound trains an independent network for each task.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/FC-250-tasks/bounds",
    tasks=data.Permuted(data.MNIST(), num_tasks=250),
    network=networks.FC1024(features=10, initializer=networks.kaiming_normal),
    method=methods.FineTuning(),
    scenario=scenarios.GG(),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4), weights_learning_rate=1e-4),
    evaluate_at=(10, 50, 100, 150, 200, 250),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__, shares_run=True)
