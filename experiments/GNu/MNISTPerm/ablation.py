"""MNISTPerm, 250 tasks: SupSup with different numbers of outputs and both objectives.

Reproduces: Figure 6: 25, 100 and 200 outputs, the objectives H (entropy) and G (superfluous neurons), both networks.
            The bounds are measured by the scripts in LeNet-250-tasks and FC-250-tasks. The paper shows this figure
            without numbers.

Command:    python experiments/GNu/MNISTPerm/ablation.py --data ~/data
            Twelve runs, one after another; the runs with G take the masks of the runs with H. --num-tasks 25 --eval-at
            5 10 25 makes them shorter, and --network LeNet --features 25 --objective entropy makes a single run.

Expect:     with 25 tasks, 25 s a run of LeNet on two CPU cores, 4 to 6 minutes a run of FC on one. LeNet: 93.6 to 93.9
            %. FC: 74.8, 94.2 and 96.0 % with H and 25, 100 and 200 outputs, 95.2, 96.0 and 96.3 % with G.
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
