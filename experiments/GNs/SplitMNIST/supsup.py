"""SplitMNIST with shared labels, 5 tasks of 2 digits, LeNet 300-100: SupSup infers the task.

Reproduces: scenario GNs of the paper's Table 1. The paper has no numbers for it. Every task asks whether a digit is the
            first or the second of its pair, so that the label is the parity of the digit in all tasks. A prediction
            with the mask of a wrong task counts as right if its label is.

Command:    python experiments/GNs/SplitMNIST/supsup.py --data ~/data

Expect:     3 minutes on a shared machine: 99.7 % with the task given. Inferred from the first image of a batch, the
            task is correct in 45 % of the batches, and the label of 75 % of the images.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNs/SplitMNIST/supsup",
    tasks=data.Split(data.MNIST(), classes_per_task=2, num_tasks=5),
    network=networks.LeNet(features=100),
    method=methods.SupSup(),
    scenario=scenarios.GNs(ss.OneShot(ss.entropy)),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4)),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
