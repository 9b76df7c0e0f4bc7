"""JAX's global flags: flags of types and random numbers change no results, and strict flags raise no errors.

Flags are set as by the environment, for all threads. Programs are compiled once for all flags of numbers.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supsup_jax as ss
from helpers import adapter
from helpers.runs import OTHERS, SHORT, measured
from helpers.tiers import thorough_but
from helpers.toys import small_dataset
from helpers.training import CONV, learn
from supsup_jax.data import augmentation
from supsup_jax.runs.description import check_weights
from supsup_jax.system import numerics
from supsup_jax.training import draw_batches, task_key, weights_key

NUMBERS = {
    "jax_enable_x64": True,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 5,
    "jax_softmax_custom_jvp": True,
    "jax_explicit_x64_dtypes": "error",
}
"""All flags that determine types and random numbers."""

STRICT = {
    "promotion": {"jax_numpy_rank_promotion": "raise", "jax_numpy_dtype_promotion": "strict"} | NUMBERS,
    "finite": {"jax_debug_nans": True, "jax_debug_infs": True},
    "transfers": {"jax_transfer_guard": "disallow"},
    "keys": {"jax_legacy_prng_key": "error", "jax_debug_key_reuse": True},
}

TWO = {"num_tasks": 2, "eval_at": (2,), "steps": 6}
G = {"er_scale": 4.0, "search": "binary", "objective": "superfluous"}
EXPERIMENTS = {"SupSup": adapter.changed(SHORT, **TWO, **G)}
EXPERIMENTS |= {name: adapter.changed(other, **TWO) for name, other in OTHERS.items()}
SOME = ("SupSup", "HopSupSup")
METHODS = thorough_but([], EXPERIMENTS, long=EXPERIMENTS.keys() - set(SOME))
CASES = [(strict, name) for strict in STRICT for name in EXPERIMENTS]
# The other methods trace all their programs again.
CASES = thorough_but([], CASES, long=[case for case in CASES if case[1] != "SupSup"])
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), dtype=np.uint8)


@contextlib.contextmanager
def flags(values):
    before = {name: jax.config.values[name] for name in values}
    try:
        for name, value in values.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def digest(*trees):
    """Return a checksum of arrays with their types, and of plain data."""
    leaves = [*map(np.asarray, jax.tree.leaves(trees))]
    assert not any(leaf.dtype == object for leaf in leaves)
    parts = [f"{leaf.dtype} {leaf.shape} ".encode() + leaf.tobytes() for leaf in leaves]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def outcome(name, folder):
    """Return a checksum of all numbers of two tasks: learned, restored, inferred, predicted, evaluated."""
    folder.mkdir(exist_ok=True)
    adapter.run_experiment(EXPERIMENTS[name], small_dataset(), folder)
    run = ss.restore(folder)
    numbers = [json.dumps(measured(run.record), sort_keys=True), adapter.arrays(run)]
    numbers.append(vars(run.predict(IMAGES, task=None if run.method.recovers else 0)))
    if run.method.searches and not run.net.uses_batch:
        for search in run.method.searches:
            search = {"OneShot": "one_shot"}.get(search, search.lower())
            numbers += [run.infer_task(IMAGES, True, search, kind) for kind in ("entropy", "superfluous")]
    numbers.append(ss.evaluate(run, data=small_dataset()).accuracy)
    return digest(numbers)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Return a function of an experiment's name that returns its numbers without flags."""
    known = {}

    def of(name):
        if name not in known:
            known[name] = outcome(name, tmp_path_factory.mktemp("usual") / "run")
        return known[name]

    return of


@pytest.mark.parametrize("name", METHODS)
def test_flags_of_types_and_random_numbers_change_no_results(name, usual, tmp_path):
    expected = usual(name)
    with flags(NUMBERS):
        assert outcome(name, tmp_path / "run") == expected
    assert ss.restore(tmp_path / "run").num_tasks


@pytest.mark.parametrize(("strict", "name"), CASES)
def test_strict_flags_raise_no_errors(name, strict, usual, tmp_path):
    expected = usual(name)
    with flags(STRICT[strict]):
        assert outcome(name, tmp_path / "run") == expected


@pytest.mark.long
@pytest.mark.parametrize("flag", ["jax_check_tracer_leaks", "jax_enable_checks"])
def test_no_tracer_leaks(flag, usual, tmp_path):
    with flags({flag: True}):
        assert outcome("SupSup", tmp_path / "run") == usual("SupSup")


def run_from_python():
    run = ss.Run.new(
        ss.networks.LeNet(features=6, width=0.1, input_shape=(4, 4, 1)), inputs=inputs(), training=SHORT.training
    )
    images, labels = small_dataset().train
    run.learn((images, labels), steps=4)
    return digest(adapter.arrays(run), vars(run.predict(IMAGES.astype(np.float64) / 255)), run.infer_task(IMAGES))


def inputs():
    return ss.data.Inputs.new((4, 4, 1), num_classes=4)


def core():
    """Return a checksum of the results of functions that users call without a run."""
    keys = jax.vmap(lambda number: jax.random.fold_in(numerics.key(3), number))(np.arange(4))
    images = jnp.asarray(np.arange(4 * 6 * 6 * 3, dtype=np.uint8).reshape(4, 6, 6, 3))
    frames = augmentation.Frames(images, np.full(4, 6, np.int32), np.ones(4, np.float32), *np.zeros((2, 4), bool))
    cut = (
        augmentation.crop_and_flip(images, keys, 2),
        augmentation.random_resized_crop(frames, keys, 4),
        augmentation.centre_crop(frames, 4),
    )
    batches = draw_batches(task_key(1, 2), 10, 10, 3, 4)
    drawn = [
        ss.networks.LeNet(4, width=0.1, initializer=name).init(weights_key(1))
        for name in ("signed_constant", "kaiming_normal")
    ]
    return digest(cut, batches, drawn, learn([0, 1], net=CONV, steps=3))


@pytest.mark.parametrize("numbers", thorough_but([run_from_python], [run_from_python, core]))
def test_results_of_python_calls_do_not_depend_on_flags(numbers):
    expected = numbers()
    with flags(STRICT["promotion"]):
        assert numbers() == expected
    with jax.enable_x64(True), jax.default_prng_impl("unsafe_rbg"), jax.threefry_partitionable(False):
        assert numbers() == expected


def test_infer_takes_arrays_of_64_bits():
    model = ss.Model.init(ss.networks.LeNet(4, width=0.1, input_shape=(4, 4, 1)), ss.methods.SupSup(), numerics.key(0))
    scores = jax.random.normal(numerics.key(1), (3, 16, 30))
    bank = ss.bank.pack(jax.tree.map(lambda leaf: jnp.resize(scores, (3, *leaf.shape)) > 0, model.weights))
    model = ss.Model(net=model.net, method=model.method, num_tasks=3, weights=model.weights, bank=bank, stats={})
    images = IMAGES / 255
    expected = ss.alpha_gradient(model, images.astype(np.float32), jnp.full(3, 1 / 3, jnp.float32))
    with jax.enable_x64(True):
        found = ss.alpha_gradient(model, jnp.asarray(images), jnp.full(3, 1 / 3))
        kept = ss.masks.top_k({"a": scores}, 0.3)["a"]
        assert ss.infer(model, jnp.asarray(images), ss.Binary()).dtype == jnp.int32
    assert found.dtype == kept.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(kept, ss.masks.top_k({"a": scores}, 0.3)["a"])


@pytest.mark.thorough
def test_flags_set_by_the_environment_change_no_results(usual):
    program = (
        "import sys, pathlib, tempfile; sys.path.insert(0, sys.argv[1])\n"
        "from core.test_flags_of_jax import outcome\n"
        "with tempfile.TemporaryDirectory() as folder: print(outcome('SupSup', pathlib.Path(folder)))\n"
    )
    variables = {name.upper(): str(value) for name, value in NUMBERS.items() if name != "jax_random_seed_offset"}
    variables |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    tests = os.path.dirname(os.path.dirname(__file__))
    ran = subprocess.run(
        [sys.executable, "-c", program, tests], env=os.environ | variables, capture_output=True, text=True
    )
    assert ran.stdout.strip() == usual("SupSup"), ran.stderr


def test_flags_that_change_rounding_are_recorded_and_named(tmp_path, capsys):
    with flags({"jax_disable_most_optimizations": False}):
        assert numerics.rounding() == {}
        recorded = {"weights": {"a": [1.0]}, "flags": {}}
        check_weights(recorded, recorded, tmp_path)
        assert capsys.readouterr().err == ""
        with jax.default_matmul_precision("highest"):
            assert numerics.rounding() == {"jax_default_matmul_precision": "highest"}
            check_weights(recorded, recorded, tmp_path)
            warning = capsys.readouterr().err
            assert warning.startswith(
                f"warning: {tmp_path} was created with different JAX flags: jax_default_matmul_pre"
            )
            assert warning.endswith("unset (here highest); results may be rounded differently\n")
            with pytest.raises(ss.UserError, match=r"the version of JAX that created the run, and its flags: jax_def"):
                check_weights({"weights": {"a": [2.0]}}, recorded, tmp_path)


def test_options_of_xla_are_recorded(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2 --xla_cpu_enable_fast_math=true")
    assert numerics.rounding()["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=true"
