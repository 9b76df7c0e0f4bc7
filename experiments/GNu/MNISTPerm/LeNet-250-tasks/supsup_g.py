"""MNISTPerm, 250 tasks, LeNet 300-100 with 100 outputs: SupSup with the task inferred from the superfluous neurons G.

Reproduces: the SupSup (GNu) G curve of Figure 3, left.

Command:    python experiments/GNu/MNISTPerm/LeNet-250-tasks/supsup_g.py --data ~/data

Expect:     7 minutes on two CPU cores, shared with other work. Task inferred: 93.71 % ± 0.06 after 10 tasks over five
            seeds (paper: 93.67 %), 93.69 % after 250 with seed 1 (93.63 %).
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/LeNet-250-tasks/supsup_g",
    tasks=data.Permuted(data.MNIST(), num_tasks=250),
    network=networks.LeNet(features=100),
    method=methods.SupSup(),
    scenario=scenarios.GNu(ss.OneShot(ss.superfluous())),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4)),
    evaluate_at=(10, 50, 100, 150, 200, 250),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
