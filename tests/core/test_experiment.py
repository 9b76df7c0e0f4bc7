import subprocess
import sys
from pathlib import Path

import jax
import pytest

from helpers import adapter
from helpers.toys import small_dataset
from supsup_jax import UserError
from supsup_jax.runs import formats

ROOT = Path(__file__).parents[2]


def test_evaluations_end_with_the_last_task():
    assert adapter.experiment("x", num_tasks=60, eval_at=(50, 10, 100)).evaluations == [10, 50, 60]
    assert adapter.experiment("x", num_tasks=5).evaluations == [5]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_tasks": 0}, "num_tasks 0: must be"),
        ({"steps": -1}, "steps -1: must be from 1"),
        ({"learning_rate": 0.0}, "learning_rate 0: must be a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate nan: must be a positive number"),
        ({"width": float("inf")}, "width inf: makes layers too large"),
        ({"width": -1.0}, "width -1"),
        ({"seed": -1}, "seed -1: must be from 0"),
        ({"eval_at": (0, 3)}, "eval_at 0: must be from 1"),
        ({"momentum": -0.1, "optimizer": "SGD"}, "momentum -0.1: must be a non-negative number"),
        ({"objective": "maximum"}, "objective maximum: "),
        ({"method": "PSP"}, "search one_shot does not serve method PSP"),
        ({"method": "HopSupSup", "network": "BNNet"}, "search one_shot does not serve method HopSupSup"),
        ({"search": "recovery"}, "search recovery does not serve method SupSup"),
        ({"scenario": "NNs", "method": "HopSupSup", "network": "BNNet", "search": "recovery"}, "scenario NNs needs"),
        ({"network": "BNNet"}, "network BNNet needs whole batches of one task"),
        ({"method": "HopSupSup", "search": "recovery"}, "HopSupSup"),
        ({"method": "LowerBound", "search": "exhaustive"}, "search exhaustive does not serve method LowerBound"),
        ({"scenario": "NNs", "method": "BatchE", "search": "exhaustive"}, "scenario NNs needs method SupSup"),
        ({"images_per_pick": 129}, "images_per_pick 129: must be at most 128"),
        ({"sync_bn": True, "network": "ResNet18"}, "sync_bn True: "),
        ({"dataset": "imagenet", "scenario": "GG"}, "resized_crop|imagenet|on disk"),
        ({"dataset": "imagenet", "benchmark": "SplitImageNet"}, "need scenario GG"),
        ({"log_base": 1, "search": "binary"}, "log_base 1: must be from 2"),
        ({"density": 1.5}, "density 1.5: must be a fraction"),
        ({"density": 0.5, "er_scale": 8.0}, "density 0.5: conflicts with er_scale"),
        ({"warmup_epochs": -1}, "warmup_epochs -1: must be from 0"),
        ({"first_task": 1}, "begin with task 0, or give scenario GG and infer tasks afterwards$"),
        ({"first_task": 1, "scenario": "GG", "method": "BatchE"}, "begin with task 0$"),
    ],
)
def test_a_setting_out_of_range_is_named(setting, message):
    with pytest.raises(UserError, match=message):
        adapter.experiment("x", **setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"features": 3}, "features 3: must be at least the 4 classes"),
        ({"features": 4, "objective": "superfluous"}, "features 4: objective superfluous needs more"),
        ({"width": 0.001}, "width 0.001"),
        ({"epochs": 3, "warmup_epochs": 3}, "warmup_epochs 3: must be less than the 3 epochs"),
        ({"benchmark": "SplitMNIST", "num_tasks": 3}, "num_tasks 3.* 2"),
        ({"benchmark": "RotatedMNIST", "num_tasks": 37}, "num_tasks 37.* 36"),
    ],
)
def test_a_network_or_task_count_that_does_not_fit_is_refused(setting, message):
    with pytest.raises(UserError, match=message):
        adapter.experiment("x", **setting).build(small_dataset())


def test_only_changes_of_fixed_settings_count_as_differences():
    experiment = adapter.experiment("x", num_tasks=10, eval_at=(5,))
    settings = adapter.plain(experiment)
    assert adapter.differences(adapter.changed(experiment, num_tasks=20, eval_at=(7,)), settings) == []
    assert adapter.differences(adapter.changed(experiment, steps=7), settings) == ["steps: 1000 before, 7 now"]


def test_a_density_applies_to_every_layer():
    experiment = adapter.experiment("x", density=0.3, width=0.1)
    assert set(experiment.densities(small_dataset()).values()) == {0.3}
    (mask,) = jax.tree.leaves(experiment.method.finalize({"a": jax.random.normal(jax.random.key(0), (20, 10))}, {}))
    assert mask.sum() == 60


def test_runs_of_version_0_1_get_their_original_initializer():
    always_recorded = {"gamma": 0.0015, "novelty": 1.125}  # version 0.1 recorded these for every run
    old = adapter.plain(adapter.experiment("x")) | always_recorded | {"initializer": "kaiming_uniform"}
    del old["density"]
    old = formats.upgraded(old)
    assert old["initializer"] == "pytorch_default"
    assert adapter.differences(adapter.experiment("x", initializer="pytorch_default"), old) == []
    new = adapter.plain(adapter.experiment("x", initializer="kaiming_uniform"))
    assert formats.upgraded(new) == new
    without = adapter.plain(adapter.experiment("x", method="PSP", scenario="GG", initializer="kaiming_uniform"))
    assert formats.upgraded(without) == without, "a method without masks has no density either"


def test_importing_the_package_does_not_load_optional_or_late_modules():
    late = ["tensorflow_datasets", "optax", "matplotlib", "tyro", "orbax.checkpoint", "tensorboardX", "pooch"]
    code = f"import sys, supsup_jax; print([name for name in {late} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


def test_declaring_an_experiment_touches_no_device():
    """The number of CPU devices is set later, which JAX refuses once a device exists."""
    code = (
        "import jax, pathlib, runpy\n"
        "for script in pathlib.Path('experiments').rglob('*.py'): runpy.run_path(str(script))\n"
        "jax.config.update('jax_num_cpu_devices', 3)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
