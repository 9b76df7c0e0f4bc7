"""Every family of tasks over every source that users have, selected by flags."""

import itertools
import sys

import pytest

import supsup_jax as ss
from supsup_jax import UserError, data, networks
from supsup_jax.cli.flags import parse

SCRIPT = ss.Experiment("x", tasks=data.PermutedMNIST(num_tasks=2), network=networks.LeNet(features=100))
SOURCES = {
    "--dataset TFDS --source-name flowers": data.TFDS("flowers"),
    "--dataset TFDS --source-name flowers/small --image-size 16": data.TFDS("flowers/small", image_size=16),
    "--dataset image_folder --path flowers --image-size 16 --channels 1": data.ImageFolder("flowers", 16, 1),
    "--dataset npz --path own.npz": data.NPZ("own.npz"),
    "--dataset tinyimagenet --image-size 32": data.TinyImageNet(32),
    "--dataset concatenated --sources mnist TFDS:flowers": data.Concatenated(("mnist", "TFDS:flowers")),
}
FAMILIES = {
    "--benchmark Permuted": data.Permuted,
    "--benchmark Rotated": data.Rotated,
    "--benchmark Split --classes-per-task 3 --order drawn --augment crop_flip": lambda source, num_tasks: data.Split(
        source, 3, order="drawn", augment="crop_flip", num_tasks=num_tasks
    ),
    "--benchmark Split --order 2 0 1": lambda source, num_tasks: data.Split(
        source, order=(2, 0, 1), num_tasks=num_tasks
    ),
    "--benchmark SplitMNIST": data.SplitMNIST,
    "--benchmark SplitCIFAR10": data.SplitCIFAR10,
    "--benchmark SplitCIFAR100": data.SplitCIFAR100,
    "--benchmark CIFAR100Superclasses": data.CIFAR100Superclasses,
    "--benchmark SplitTinyImageNet": data.SplitTinyImageNet,
    "--benchmark FiveDatasets": data.FiveDatasets,
}


def parsed(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    (experiment,) = parse(SCRIPT, None).experiments
    return experiment


@pytest.mark.parametrize(
    ("family", "source"),
    [*zip(FAMILIES, itertools.cycle(SOURCES)), *zip(itertools.cycle(FAMILIES), SOURCES)],  # not all pairs, for time
)
def test_any_family_takes_any_source_by_flags(family, source, monkeypatch):
    experiment = parsed(monkeypatch, *family.split(), *source.split())
    assert experiment.tasks == FAMILIES[family](SOURCES[source], num_tasks=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--dataset TFDS", "--source-name"),
        ("--dataset npz", "--path"),
        ("--dataset concatenated", "--sources"),
        ("--dataset TFDS --source-name ../x", "'../x' must be the name of a data set"),
        ("--dataset TFDS --source-name flowers --image-size 0", "--image-size 0: must be from 1"),
    ],
)
def test_a_missing_or_invalid_flag_of_a_source_is_named(words, message, monkeypatch):
    with pytest.raises(UserError) as error:
        parsed(monkeypatch, *words.split())
    assert message in str(error.value) and "\n" not in str(error.value)
