"""Any input is accepted or rejected in one line: without a traceback, and without NaN in results."""

import contextlib
import dataclasses
import io
import math
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import supsup_jax as ss
from helpers import adapter
from helpers.tiers import thorough_but
from helpers.toys import model_of, small_dataset
from supsup_jax import UserError, inference, masks, networks
from supsup_jax import bank as banks
from supsup_jax.__main__ import main
from supsup_jax.cli import launch
from supsup_jax.cli.cluster import Cluster
from supsup_jax.cli.commands import COMMANDS
from supsup_jax.cli.flags import parse
from supsup_jax.cli.options import Options

DATASET = small_dataset(samples=24)
EXPECTED_ERRORS = UserError, ValueError, TypeError, IndexError
SMALL = adapter.experiment("small", "digits", features=10, width=0.1, num_tasks=2, steps=2, batch_size=8, scenario="GG")

NUMBERS = st.one_of(
    st.sampled_from(["0", "-1", "1", "nan", "inf", "-inf", "1e39", "1e-46", str(2**31), str(2**40), str(-(2**40))]),
    st.integers().map(str),
    st.floats().map(str),
)
VALUES = st.one_of(NUMBERS, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8))
OPTIONS = {field.name for options in (Options, Cluster) for field in dataclasses.fields(options)}
SETTINGS = {
    name
    for scenario in ("GG", "GNu", "NNs")
    for name in vars(adapter.settings_of(adapter.experiment("x", scenario=scenario)))
}
FLAGS = sorted("--" + name.replace("_", "-") for name in OPTIONS | SETTINGS - {"er_scale"})


def examples(small, large):
    """Return a decorator for tests of random examples: a small number by default, a large one in the long tier."""

    def marked(*strategies, **named):
        def both(test):
            def with_(count):
                health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
                return settings(max_examples=count, deadline=None, suppress_health_check=health)(
                    given(*strategies, **named)(test)
                )

            tests = [
                pytest.param(with_(small), id="small"),
                pytest.param(with_(large), id="large", marks=pytest.mark.long),
            ]

            @pytest.mark.parametrize("of_examples", tests)
            def run(of_examples):
                of_examples()

            return run

        return both

    return marked


def complaint(function):
    """Return the one-line error of a command that ends with status 2, or an empty string if it succeeds."""
    errors, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(out):
        try:
            function()
        except SystemExit as ended:
            assert ended.code in (0, None, 2), errors.getvalue()
            if not ended.code:
                return ""
    text = errors.getvalue()
    if text:
        assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


@examples(small=25, large=600)(st.lists(st.tuples(st.sampled_from(FLAGS), VALUES), min_size=1, max_size=3))
def test_flags_of_a_script_are_accepted_or_refused_in_one_line(flags):
    @launch.errors_in_one_line()
    def script():
        for experiment in parse(SMALL, None).experiments[:3]:
            experiment.build(DATASET)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script.py", *(word for flag in flags for word in flag)])
        complaint(script)


@pytest.mark.parametrize("name", sorted(COMMANDS))
@pytest.mark.parametrize("flag", thorough_but(["--output"], ["--tasks", "--task", "--output", "--nonsense"]))
def test_a_command_without_a_run_ends_in_one_line(tmp_path, monkeypatch, name, flag):
    monkeypatch.chdir(tmp_path)
    for words in (["a folder/ü", "out", flag, "-1"], ["a folder/ü", flag], [flag, "nan", "x" * 300]):
        monkeypatch.setattr(sys, "argv", ["supsup_jax", name, *words])
        assert complaint(main), words
    assert not list(tmp_path.iterdir())


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if np.asarray(leaf).dtype.kind == "f")


@cache
def learned():
    """Return a run that has learned one task."""
    run = adapter.own_run("LeNet", num_classes=4, image_shape=(4, 4, 1), features=6, width=0.05, steps=2, batch_size=4)
    run.learn(DATASET.train)
    return run


IMAGES = st.one_of(
    st.sampled_from([None, "text", 3, [], [[1], [1, 2]]]),
    st.tuples(
        st.sampled_from([(2, 4, 4, 1), (1, 4, 4), (0, 4, 4, 1), (2, 4, 4, 3), (4, 4), ()]),
        st.sampled_from(["uint8", "float32", "float64", "float16", "int64", "bool", "complex64", "U1", "object"]),
        st.sampled_from([0.0, 0.5, 1.0, -1.0, 255.0, 1e30, math.nan, math.inf]),
    ).map(lambda parts: _filled(*parts)),
)
LABELS = st.one_of(
    st.sampled_from([None, "text", 3, [], [[0], [0, 1]], ["é", "b"], [1, "a"], [None, 1], [True, False]]),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=2)), max_size=3),
    st.integers(0, 3).map(lambda label: [label, label]),
)


def _filled(shape, dtype, value):
    with np.errstate(all="ignore"):
        plain = np.full(shape, value)
        if dtype in ("uint8", "int64"):
            plain = np.nan_to_num(plain).clip(0, 200)
        return plain.astype(dtype)


@examples(small=60, large=2000)(IMAGES, st.one_of(st.integers(), st.floats(), st.sampled_from([None, "a", [], [0, 0]])))
def test_a_run_predicts_finite_numbers_or_refuses_its_arguments(images, task):
    with contextlib.suppress(*EXPECTED_ERRORS):
        predicted = learned().predict(images, task)
        assert finite((predicted.logits, predicted.probabilities)) and set(predicted.tasks.tolist()) == {0}


@examples(small=40, large=400)(IMAGES, LABELS)
def test_a_run_learns_finite_numbers_or_refuses_its_arguments(images, labels):
    run = adapter.own_run("LeNet", num_classes=4, image_shape=(4, 4, 1), features=6, width=0.05, steps=2, batch_size=4)
    with contextlib.suppress(*EXPECTED_ERRORS):
        run.learn((images, labels))
        assert finite(run.predict(DATASET.test.images[:2]).probabilities)
        assert math.isfinite(run.record.tasks[0].loss)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_classes": 0},
        {"num_classes": -2},
        {"image_shape": (0, 4, 1)},
        {"image_shape": (-4, 4, 1)},
        {"image_shape": (4, 4)},
        {"mean": (math.nan,)},
        {"std": (0.0,)},
        {"std": (math.inf,)},
        {"std": (1.0, 1.0)},
        {"seed": 2**40},
        {"seed": -1},
        {"steps": 2**40},
        {"steps": 2**30},
        {"batch_size": 2**31},
        {"width": 1e39},
        {"learning_rate": 1e39},
        {"learning_rate": 1e-46},
        {"learning_rate": -1.0},
        {"er_scale": 0.0},
        {"nonsense": 1},
    ],
    ids=str,
)
def test_an_impossible_setting_is_refused_before_training(wrong):
    given = {"num_classes": 4, "image_shape": (4, 4, 1), "features": 6, "width": 0.05} | wrong
    with pytest.raises(UserError) as refused:
        adapter.own_run("LeNet", **given).learn(DATASET.train)
    assert "\n" not in str(refused.value) and "diverged" not in str(refused.value)


@pytest.mark.parametrize("name", thorough_but(["任务 ü"], ["é", "a path with spaces", "任务 ü"]))
def test_a_run_is_saved_and_restored_in_a_folder_of_any_name(tmp_path, name):
    run = adapter.own_run("LeNet", num_classes=4, image_shape=(4, 4, 1), features=6, width=0.05, steps=2, batch_size=4)
    run.learn(DATASET.train)
    run.save(tmp_path / name)
    assert ss.restore(tmp_path / name).num_tasks == 1
    for wrong in (lambda: ss.restore(tmp_path), lambda: ss.restore(tmp_path / name, step=7)):
        with pytest.raises(UserError):
            wrong()


NET = networks.LeNet(6, 0.05, (4, 4, 1))
BATCH = jnp.zeros((2, 4, 4, 1))


@cache
def bank():
    weights, _ = NET.init(jax.random.key(0))
    return weights, banks.pack(jax.tree.map(lambda leaf: np.ones((3, *leaf.shape), bool), weights))


def search(function, **changes):
    weights, packed = bank()
    arguments = {"num_tasks": 3, "images": BATCH} | changes
    model = model_of(NET, weights, packed, arguments.pop("num_tasks"))
    return function()(model, **arguments)


@pytest.mark.parametrize("function", [inference.OneShot, inference.Binary, inference.Exhaustive])
@pytest.mark.parametrize(
    "wrong",
    [
        {"num_tasks": 0},
        {"num_tasks": -1},
        {"num_tasks": 9},
        {"images": BATCH[:0]},
        {"images": jnp.zeros((2, 5, 5, 1))},
        {"images_per_pick": 0},
        {"images_per_pick": 3},
    ],
    ids=lambda wrong: str(next(iter(wrong))),
)
def test_a_search_refuses_impossible_arguments(function, wrong):
    with pytest.raises((ValueError, IndexError)):
        search(function, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        *(partial(networks.LeNet, 5, width) for width in (0.0, -1.0, math.nan, math.inf, 1e39)),
        *(partial(networks.GEMResNet18, 5, width) for width in (0.0, math.nan, 1e39)),
        *(partial(networks.LeNet, features) for features in (0, -3)),
        *(partial(networks.LeNet, 5, 1.0, shape) for shape in ((), (0, 4, 1), (4, -4, 1))),
        lambda: NET.apply(bank()[0], {}, jnp.zeros((2, 5, 5, 1)), train=False),
        lambda: banks.count(bank()[1], jnp.ones((0, 3), bool)),
        lambda: banks.count(bank()[1], jnp.ones((1, 9), bool)),
        lambda: banks.superpose(bank()[1], jnp.ones((0, 3))),
        lambda: banks.superpose(bank()[1], jnp.ones((1, 30))),
        lambda: banks.project(bank()[1], jax.tree.map(lambda leaf: leaf[None], bank()[0]), 9),
        lambda: masks.erdos_renyi(bank()[0], math.nan),
        lambda: masks.top_k(bank()[0], 0.0),
        lambda: banks.unpack(bank()[1], 2**40),
    ],
)
def test_networks_and_masks_refuse_impossible_arguments(wrong):
    with pytest.raises((ValueError, IndexError)):
        wrong()


@pytest.mark.parametrize("density", [1, 1.0, 1e-9])
def test_a_density_keeps_between_one_and_all_weights(density):
    (mask,) = masks.top_k((jnp.arange(4.0),), density)
    assert mask.sum() == masks.num_kept(4, density)


@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_running_out_of_memory_is_reported_in_one_line(error):
    @launch.errors_in_one_line()
    def fails():
        raise error

    assert "there is not enough memory" in complaint(fails)


def test_other_compiler_errors_keep_their_traceback():
    @launch.errors_in_one_line()
    def fails():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError):
        fails()
