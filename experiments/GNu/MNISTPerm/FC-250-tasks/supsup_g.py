"""MNISTPerm, 250 tasks, FC 1024-1024 with 500 outputs: SupSup with the task inferred from the superfluous neurons G.

Reproduces: the SupSup (GNu) G curve of Figure 3, right.

Command:    python experiments/GNu/MNISTPerm/FC-250-tasks/supsup_g.py --data ~/data

Expect:     10 tasks take 3 minutes on two CPU cores; all 250 tasks were not run. Task inferred: 96.29 % after 10 tasks
            (paper: 96.28 %). Paper after 250 tasks: 95.91 %.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/FC-250-tasks/supsup_g",
    tasks=data.Permuted(data.MNIST(), num_tasks=250),
    network=networks.FC1024(features=500),
    method=methods.SupSup(),
    scenario=scenarios.GNu(ss.OneShot(ss.superfluous())),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4)),
    evaluate_at=(10, 50, 100, 150, 200, 250),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
