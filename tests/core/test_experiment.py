import dataclasses
import subprocess
import sys

import jax
import pytest

from helpers.toys import small_dataset
from supsup_jax import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.runs import formats


def test_evaluations_end_with_the_last_task():
    assert Experiment("x", num_tasks=60, eval_at=(50, 10, 100)).evaluations == [10, 50, 60]
    assert Experiment("x", num_tasks=5).evaluations == [5]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_tasks": 0}, "--num-tasks 0 is out of range"),
        ({"steps": -1}, "--steps -1 is out of range"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0 is out of range"),
        ({"learning_rate": float("nan")}, "--learning-rate nan is out of range"),
        ({"width": float("inf")}, "--width inf is out of range"),
        ({"width": -1.0}, "--width -1.0 is out of range"),
        ({"seed": -1}, "--seed -1 is out of range"),
        ({"eval_at": (0, 3)}, "--eval-at takes numbers of tasks"),
        ({"momentum": -0.1}, "--momentum -0.1 is out of range"),
        ({"objective": "maximum"}, "--objective maximum is for --search exhaustive"),
        ({"method": "BatchE"}, "--search one_shot needs the masks of --method SupSup"),
        ({"method": "HopSupSup"}, "--method HopSupSup and --search recovery need each other"),
        ({"search": "recovery"}, "--method HopSupSup and --search recovery need each other"),
        ({"scenario": "NNs", "search": "recovery"}, "--scenario NNs needs --method SupSup"),
        ({"network": "BNNet"}, "--network BNNet needs whole batches of one task"),
        ({"method": "HopSupSup", "search": "recovery"}, "--method HopSupSup needs the gains of --network BNNet"),
        ({"method": "LowerBound", "search": "exhaustive"}, "--method LowerBound has one network for all tasks"),
        ({"scenario": "NNs", "method": "BatchE", "search": "exhaustive"}, "--scenario NNs needs --method SupSup"),
        ({"images_per_pick": 129}, "--images-per-pick 129 is more than a test batch has"),
        ({"dtype": "bfloat16"}, "--dtype bfloat16 is for --network ResNet18, ResNet50 or ResNet101"),
        ({"sync_bn": True}, "--sync-bn is for --network ResNet18, ResNet50 or ResNet101"),
        ({"sync_bn": True, "network": "ResNet18"}, "--sync-bn is for --dataset imagenet"),
        ({"dataset": "imagenet", "scenario": "GG"}, "--dataset imagenet and --benchmark SplitImageNet need each other"),
        ({"dataset": "imagenet", "benchmark": "SplitImageNet"}, "--dataset imagenet needs --scenario GG"),
        ({"log_base": 1}, "--log-base 1 is out of range; give at least 2"),
        ({"density": 1.5}, "--density 1.5 is out of range; give a fraction"),
        ({"density": 0.5, "er_scale": 8.0}, "--density 0.5 and --sparsity both say what masks keep"),
        ({"density": 0.5, "method": "PSP", "scenario": "GG"}, "--density is for --method SupSup or Transfer"),
        ({"warmup_epochs": -1}, "--warmup-epochs -1 is out of range"),
        ({"first_task": 1}, "begin with task 0"),
        ({"first_task": 1, "scenario": "GG", "method": "BatchE"}, "begin with task 0"),
    ],
)
def test_a_setting_out_of_range_is_named(setting, message):
    with pytest.raises(UserError, match=message):
        Experiment("x", **setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"features": 3}, "--features 3 is less than the 4 classes"),
        ({"features": 4, "objective": "superfluous"}, "--objective superfluous needs --features above the 4"),
        ({"width": 0.001}, "--width 0.001 leaves a layer"),
        ({"epochs": 3, "warmup_epochs": 3}, "--warmup-epochs 3 leaves none of 3 epochs"),
        ({"benchmark": "SplitMNIST", "num_tasks": 3}, "--num-tasks 3 is more than SplitMNIST has: 2"),
        ({"benchmark": "RotatedMNIST", "num_tasks": 37}, "--num-tasks 37 is more than RotatedMNIST has: 36"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(setting, message):
    with pytest.raises(UserError, match=message):
        Experiment("x", **setting).build(small_dataset())


def test_a_longer_run_is_the_same_run_and_other_settings_are_another():
    experiment = Experiment("x", num_tasks=10, eval_at=(5,))
    settings = dataclasses.asdict(experiment) | {"eval_at": [5]}
    assert dataclasses.replace(experiment, num_tasks=20, eval_at=(7,)).differs_from(settings) == []
    assert dataclasses.replace(experiment, steps=7).differs_from(settings) == ["steps: 1000 before, 7 now"]


def test_a_density_holds_in_every_layer():
    experiment = Experiment("x", density=0.3, width=0.1)
    assert set(experiment.densities(small_dataset()).values()) == {0.3}
    method = experiment.make_method("")
    (mask,) = jax.tree.leaves(method.finalize({"a": jax.random.normal(jax.random.key(0), (20, 10))}, {}))
    assert mask.sum() == 60


def test_a_run_of_version_0_1_has_the_initialiser_that_it_was_drawn_with():
    settings = {name: value for name, value in dataclasses.asdict(Experiment("x")).items() if name != "density"}
    old = formats.upgraded(settings | {"initializer": "kaiming_uniform"})
    assert old["initializer"] == "pytorch_default"
    assert Experiment("x", initializer="pytorch_default").differs_from(old) == []
    new = dataclasses.asdict(Experiment("x", initializer="kaiming_uniform"))
    assert formats.upgraded(new) == new


def test_importing_the_package_loads_nothing_that_is_needed_only_later():
    later = ["tensorflow_datasets", "sklearn", "matplotlib", "tyro", "orbax.checkpoint", "tensorboardX", "pooch"]
    code = f"import sys, supsup_jax; print([name for name in {later} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
