"""MNISTPerm without boundaries, 2,500 tasks, LeNet 300-100 with 500 outputs: SupSup discovers the tasks.

Reproduces: the SupSup (NNs) curve of Figure 4.

Command:    python experiments/NNs/supsup.py --data ~/data

Expect:     23 minutes on one CPU core with --num-tasks 500: 500 masks, one for each task, 93.43 % (paper: 93.49 %). The
            full run was not made: 2,500 tasks require 6.3 GB of memory and of disk, and about 3 hours (estimated).
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="NNs/supsup",
    tasks=data.Permuted(data.MNIST(), num_tasks=2500),
    network=networks.LeNet(features=500),
    method=methods.SupSup(),
    scenario=scenarios.NNs(
        ss.OneShot(ss.entropy), images_per_task=256, check_every=100, novelty=1.125, fewest_masks=5, most_masks=2500
    ),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4)),
    evaluate_at=(10, 500, 1000, 1500, 2000, 2500),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
