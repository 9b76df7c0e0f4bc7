"""MNISTPerm, 250 tasks: SupSup with different numbers of outputs and both objectives.

Reproduces: Figure 6: 25, 100 and 200 outputs, the objectives H (entropy) and G (superfluous neurons), both networks.
            The bounds are measured by the scripts in LeNet-250-tasks and FC-250-tasks. The paper shows this figure
            without numbers.

Command:    python experiments/GNu/MNISTPerm/ablation.py --data ~/data
            Twelve runs, one after another; --num-tasks 25 --eval-at 5 10 25 makes them shorter, and
            --network LeNet --features 25 --objective entropy makes a single run.

Expect:     not run here. LeNet with 100 outputs has the settings of LeNet-250-tasks/supsup_h.py and supsup_g.py, which
            took 4 and 7 minutes on two CPU cores, shared with other work: 93.8 % after 10 tasks and 93.7 % after 250,
            with either objective and seed 1.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GNu/MNISTPerm/ablation",
    tasks=data.Permuted(data.MNIST(), num_tasks=250),
    network=networks.LeNet(features=100),
    method=methods.SupSup(),
    scenario=scenarios.GNu(ss.OneShot(ss.entropy)),
    training=ss.Training(steps=1000, batch_size=128, optimizer=optimizers.RMSprop(1e-4)),
    evaluate_at=(10, 25, 50, 100, 150, 200, 250),
)

if __name__ == "__main__":
    ss.main(
        EXPERIMENT,
        __doc__,
        network=("LeNet", "FC1024"),
        features=(25, 100, 200),
        objective=("entropy", "superfluous"),
    )
