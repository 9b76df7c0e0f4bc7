"""MNISTPerm, 250 tasks, FC 1024-1024 with 10 outputs: the lower bound.

Reproduces: the bound that Figure 4 draws, for the network of Figure 3, right, whose axis starts above it: the accuracy
            of all tasks at the end (the column "task given"). One network is trained on all tasks in turn, with a new
            head for each task.

Command:    python experiments/GNu/MNISTPerm/FC-250-tasks/lower_bound.py --data ~/data
            upper_bound.py shares this run: the script that is called first creates it, the other one shows it.

Expect:     26 minutes on one CPU core. Task given: 75.9 % after 10 tasks, 38.3 % after 100, 29.7 % after 250. The paper
            has no value: the vertical axis of its figure starts at about 88 %, above this curve.

Option:     --method LowerBound has one head for all tasks.
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
