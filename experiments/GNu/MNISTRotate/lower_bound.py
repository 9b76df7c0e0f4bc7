"""MNISTRotate, 36 tasks 10 degrees apart, FC 1024-1024 with 10 outputs: the lower bound.

Reproduces: the lower bound of Figure 5: the accuracy of all tasks at the end (the column "task given"). One network is
            trained on all tasks in turn, with a new head for each task.

Command:    python experiments/GNu/MNISTRotate/lower_bound.py --data ~/data
            upper_bound.py shares this run: the script that is called first creates it, the other one shows it.

Expect:     12 minutes on two CPU cores, shared with other work. Task given: 97.4 % after 2 tasks, 65.8 % after 10,
            48.9 % after 36. The paper shows this curve only in a figure.

Option:     --method LowerBound has one head for all tasks.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTRotate/bounds",
    tasks=data.Rotated(data.MNIST(), num_tasks=36),
    network=networks.FC1024(features=10, initializer=networks.kaiming_normal),
    method=methods.FineTuning(),
    scenario=scenarios.GG(),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4), weights_learning_rate=1e-4),
    evaluate_at=(2, 5, 10, 15, 20, 25, 30, 35, 36),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__, shares_run=True)
