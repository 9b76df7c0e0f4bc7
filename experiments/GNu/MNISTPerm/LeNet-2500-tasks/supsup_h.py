"""MNISTPerm, 2,500 tasks, LeNet 300-100 with 500 outputs: SupSup with the task inferred from the entropy H.

Reproduces: the SupSup (GNu) H curve of Figure 4.

Command:    python experiments/GNu/MNISTPerm/LeNet-2500-tasks/supsup_h.py --data ~/data

Expect:     1 hour and 47 minutes on two CPU cores, partly beside other work: 46 minutes of training, the rest for
            evaluations. Task inferred: 93.4 % after 500 to 2,500 tasks (paper: 93.5 %).
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/LeNet-2500-tasks/supsup_h",
    tasks=data.Permuted(data.MNIST(), num_tasks=2500),
    network=networks.LeNet(features=500),
    method=methods.SupSup(),
    scenario=scenarios.GNu(ss.OneShot(ss.entropy)),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4)),
    evaluate_at=(10, 500, 1000, 1500, 2000, 2500),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
