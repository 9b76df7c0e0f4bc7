"""MNISTPerm, 2,500 tasks, LeNet 300-100 with 500 outputs: SupSup with the task inferred from the superfluous neurons G.

Reproduces: the SupSup (GNu) G curve of Figure 4.

Command:    python experiments/GNu/MNISTPerm/LeNet-2500-tasks/supsup_g.py --data ~/data

Expect:     as long as supsup_h.py, 1 hour 47 minutes on two CPU cores; with --learned-in and its run, the evaluations
            of 1,000 tasks take 12 minutes on one core. Task inferred: 93.56 % after 10 tasks, 93.45 % after 500 and
            1,000 (paper: 93.5 %).
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/LeNet-2500-tasks/supsup_g",
    tasks=data.Permuted(data.MNIST(), num_tasks=2500),
    network=networks.LeNet(features=500),
    method=methods.SupSup(),
    scenario=scenarios.GNu(ss.OneShot(ss.superfluous())),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4)),
    evaluate_at=(10, 500, 1000, 1500, 2000, 2500),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
