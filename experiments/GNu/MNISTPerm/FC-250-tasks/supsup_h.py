"""MNISTPerm, 250 tasks, FC 1024-1024 with 500 outputs: SupSup with the task inferred from the entropy H.

Reproduces: the SupSup (GNu) H curve of Figure 3, right.

Command:    python experiments/GNu/MNISTPerm/FC-250-tasks/supsup_h.py --data ~/data

Expect:     70 minutes on one CPU core, 12 of them for evaluations. Task inferred: 96.29 % after 10 tasks (paper: 96.28
            %), 95.84 % after 100 (96.05 %) and 95.66 % after 250 (95.67 %). The right task is inferred for 99.4 % of
            the batches; with the task given: 96.27 %.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/FC-250-tasks/supsup_h",
    tasks=data.Permuted(data.MNIST(), num_tasks=250),
    network=networks.FC1024(features=500),
    method=methods.SupSup(),
    scenario=scenarios.GNu(ss.OneShot(ss.entropy)),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4)),
    evaluate_at=(10, 50, 100, 150, 200, 250),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
