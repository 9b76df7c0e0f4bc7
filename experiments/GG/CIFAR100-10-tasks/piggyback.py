"""CIFAR-100, tasks of 10 classes, ResNet-18: Piggyback masks over a backbone trained on the first ten classes.

Reproduces: the method and its settings (Mallya, Davis and Lazebnik, ECCV 2018): 30 epochs of Adam 1e-4 with batches of
            32. The paper has larger images and backbones: ImageNet networks and fine-grained data sets.

Command:    python experiments/GG/CIFAR100-10-tasks/piggyback.py --data ~/data
            The backbone, backbone.msgpack in the current folder, comes first:
            python experiments/GG/CIFAR100-10-tasks/piggyback.py --data ~/data --log-dir runs/backbone \
                --base-weights None --method UpperBound --first-task 0 --num-tasks 1 --learning-rate 1e-3 \
                --batch-size 128 --epochs 100 --schedule cosine
            python -m supsup_jax export-weights runs/backbone/GG/CIFAR100-10-tasks/piggyback/seed=0 backbone.msgpack

Expect:     64.0 % with --epochs 6 --schedule cosine over a backbone of 20 epochs, which has 80.3 %: 7 minutes for the
            backbone and 2 to 3 for each task on one CPU core. The authors' ResNet-50, trained on ImageNet, has top-1
            errors of 18.23 % on CUBS and 10.19 % on Stanford Cars.
"""

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios

EXPERIMENT = ss.Experiment(
    name="GG/CIFAR100-10-tasks/piggyback",
    tasks=data.Split(data.CIFAR100(), classes_per_task=10, num_tasks=9, augment="crop_flip"),
    network=networks.GEMResNet18(features=10, initializer=networks.pytorch_default, affine=True),
    method=methods.Piggyback(),
    scenario=scenarios.GG(),
    training=ss.Training(epochs=30, batch_size=32, optimizer=optimizers.Adam(1e-4, weight_decay=0.0)),
    first_task=1,  # the backbone is trained on task 0
    seed=0,
    base_weights="backbone.msgpack",
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
