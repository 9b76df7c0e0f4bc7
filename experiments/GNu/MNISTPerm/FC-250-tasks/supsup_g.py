"""MNISTPerm, 250 tasks, FC 1024-1024 with 500 outputs: SupSup with the task inferred from the superfluous neurons G.

Reproduces: the SupSup (GNu) G curve of Figure 3, right.

Command:    python experiments/GNu/MNISTPerm/FC-250-tasks/supsup_g.py --data ~/data

Expect:     70 minutes on one CPU core; 12 with --learned-in and the run of supsup_h.py. Task inferred: 96.29 % after 10
            tasks (paper: 96.28 %), 96.02 % after 100 (96.05 %) and 95.94 % after 250 (95.91 %). The right task is
            inferred for 99.7 % of the batches.
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
