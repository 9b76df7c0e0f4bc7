"""Runs over base weights that the user gives, as a file or a pytree."""

import shutil

import jax
import numpy as np
import pytest

import supsup_jax as ss
from helpers import adapter
from helpers.runs import DATASET, EXPERIMENT, OTHERS, measured
from helpers.tiers import thorough_but
from helpers.toys import batch_norm_net
from supsup_jax.cli.collection import collect
from supsup_jax.networks import save_weights
from supsup_jax.runs.settings import write_run

SHORT = adapter.changed(EXPERIMENT, num_tasks=3, eval_at=())
NET = SHORT.network.for_images(DATASET.image_shape)


def trained(seed=5):
    """Return weights unlike those of any seed of the experiment."""
    weights, _ = jax.device_get(NET.init(jax.random.key(seed)))
    return jax.tree.map(lambda leaf: leaf * np.linspace(0.5, 1.5, leaf.size, dtype="f4").reshape(leaf.shape), weights)


@pytest.fixture
def file(tmp_path):
    save_weights(tmp_path / "trained.msgpack", trained())
    return tmp_path / "trained.msgpack"


def run_in(folder, experiment, **options):
    folder.mkdir(exist_ok=True)
    return adapter.run_experiment(experiment, DATASET, folder, **options)


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def arrays(run):
    return jax.device_get((run.weights, run.bank, run.stats))


@pytest.mark.parametrize("name", thorough_but(["SupSup"], ["SupSup", "BatchE", "NNs", "FineTuning"], long=["BatchE"]))
def test_a_run_starts_from_a_file_and_is_restored_without_it(name, file, tmp_path):
    experiment = adapter.changed(OTHERS.get(name, SHORT), num_tasks=3, eval_at=(), base_weights=str(file))
    run = run_in(tmp_path / "run", experiment)
    if name in ("SupSup", "NNs"):
        assert_equal(run.weights, trained())
    else:
        assert not np.array_equal(run.weights["dense0"]["kernel"], trained()["dense0"]["kernel"])
    file.unlink()
    restored = ss.restore(tmp_path / "run")
    assert_equal(arrays(restored), arrays(run))
    assert restored.has_given_weights and restored.account() == run.account()
    images = DATASET.test.images[:5]
    np.testing.assert_array_equal(restored.predict(images, task=0).logits, run.predict(images, task=0).logits)


def test_an_interrupted_run_continues_as_if_it_were_not(file, tmp_path):
    whole = run_in(tmp_path / "whole", adapter.changed(SHORT, base_weights=str(file)), tasks_at_once=1)
    run_in(tmp_path / "part", adapter.changed(SHORT, num_tasks=1, base_weights=str(file)), tasks_at_once=1)
    file.unlink()  # the checkpoint has the weights
    resumed = run_in(tmp_path / "part", adapter.changed(SHORT, base_weights=str(file)), tasks_at_once=1)
    assert_equal(arrays(resumed), arrays(whole))
    assert measured(resumed.record)["tasks"] == measured(whole.record)["tasks"]
    assert sorted(path.name for path in (tmp_path / "part/state").iterdir()) == ["0"]  # stored once


def test_resuming_with_a_changed_file_is_refused(file, tmp_path):
    experiment = adapter.changed(SHORT, num_tasks=1, base_weights=str(file))
    run_in(tmp_path / "run", experiment)
    save_weights(file, trained(seed=6))
    with pytest.raises(ss.UserError, match="has other base weights than this process was given; give the file"):
        run_in(tmp_path / "run", adapter.changed(experiment, num_tasks=2))


def test_a_run_without_checkpoints_needs_its_file(file, tmp_path):
    file.unlink()
    with pytest.raises(ss.UserError, match=r"base_weights .*trained.msgpack: does not exist"):
        run_in(tmp_path / "run", adapter.changed(SHORT, base_weights=str(file)))


def test_other_weights_are_a_different_setting(file, tmp_path):
    given, drawn = adapter.changed(SHORT, base_weights=str(file)), SHORT
    (difference,) = adapter.differences(given, adapter.plain(drawn))
    assert difference == f"base_weights: None before, {file} now"
    recorded = {name: value for name, value in adapter.plain(drawn).items() if name != "base_weights"}  # an old run
    assert not adapter.differences(drawn, recorded)


def test_a_relative_path_and_a_home_directory_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = str(tmp_path / "a.msgpack")
    for path in ("a.msgpack", "~/a.msgpack"):
        assert adapter.changed(SHORT, base_weights=path).base_weights == expected


def own_run(base_weights, net=None, **parts):
    inputs = ss.data.Inputs.new((5, 5, 1) if net else (4, 4, 1), num_classes=4)
    training = ss.Training(steps=20, batch_size=16, optimizer=ss.optimizers.RMSprop(1e-2))
    return ss.Run.new(net or NET, inputs=inputs, training=training, base_weights=base_weights, **parts)


@pytest.mark.parametrize("in_memory", [True, False], ids=["a pytree", "a file"])
def test_a_run_from_python_starts_from_given_weights(in_memory, file, tmp_path):
    run, whole = (own_run(trained() if in_memory else file) for _ in range(2))
    assert_equal(run.weights, trained())
    run.learn(*DATASET.train)
    run.save(tmp_path / "run")
    file.unlink()
    restored = ss.restore(tmp_path / "run")
    assert_equal(arrays(restored), arrays(run))
    restored.learn(*DATASET.train)
    for _ in range(2):
        whole.learn(*DATASET.train)
    assert_equal(arrays(restored), arrays(whole))
    assert_equal(arrays(ss.restore(tmp_path / "run")), arrays(whole))


def test_given_statistics_are_the_initial_ones_of_every_task(tmp_path):
    net = batch_norm_net()
    weights, stats = jax.device_get(net.init(jax.random.key(5)))
    given = {"params": weights, "batch_stats": jax.tree.map(lambda leaf: leaf + 3, stats)}
    images = np.random.default_rng(0).integers(0, 255, (32, 5, 5, 1)).astype(np.uint8)
    run = own_run(given, net, scenario=ss.scenarios.GG())
    assert_equal(run.fresh_stats, given["batch_stats"])
    run.learn(images, np.arange(32) % 4, steps=1)
    # One step moves the running mean by a tenth of the way to the mean of the batch.
    assert np.all(run.stats_for(0)["BatchNorm_0"]["mean"] > 2)
    run.save(tmp_path / "run")
    restored = ss.restore(tmp_path / "run", network=net)
    assert_equal(restored.fresh_stats, given["batch_stats"])


@pytest.mark.parametrize("wrong", [3, [1, 2], np.ones(3)])
def test_other_objects_are_not_base_weights(wrong):
    with pytest.raises(ss.UserError, match=r"base_weights .*give a path, or a dictionary of arrays"):
        own_run(wrong)


def test_given_weights_count_as_storage(file):
    run, drawn = own_run(file), own_run(None)
    for each in (run, drawn):
        each.learn(*DATASET.train, steps=1)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(trained()))
    assert run.account()["given weights"] == size
    assert run.account().keys() - {"given weights"} == drawn.account().keys() - {"seed of the random weights"}


def test_runs_of_single_tasks_are_collected_with_their_weights(file, tmp_path):
    experiment = adapter.changed(SHORT, scenario="GG", base_weights=str(file))
    runs = []
    for task in range(2):
        folder = tmp_path / f"seed=1~task={task}"
        part = adapter.changed(experiment, first_task=task, num_tasks=1)
        folder.mkdir()
        write_run(folder, part, DATASET, {"data": "none", "tasks_at_once": None})
        runs.append(run_in(folder, part))
    file.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(experiment.tasks), "load", lambda *_: DATASET)
        collected = ss.restore(collect([run.folder for run in runs]))
    assert_equal(collected.weights, trained())
    for task, run in enumerate(runs):
        assert_equal(collected.mask(task), run.mask(0))


@pytest.mark.thorough
def test_runs_of_several_tasks_are_collected_and_infer_among_all(tmp_path):
    whole, runs = run_in(tmp_path / "whole", adapter.changed(SHORT, num_tasks=5)), []
    for first, count in ((0, 2), (2, 2), (4, 1)):
        part = adapter.changed(SHORT, scenario="GG", first_task=first, num_tasks=count)
        folder = tmp_path / f"seed=1~task={first}"
        folder.mkdir()
        write_run(folder, part, DATASET, {"data": "none", "tasks_at_once": None})
        runs.append(run_in(folder, part))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(SHORT.tasks), "load", lambda *_: DATASET)
        collected = ss.restore(collect([run.folder for run in runs]))
    assert collected.num_tasks == 5
    assert_equal(arrays(collected), arrays(whole))
    assert_equal(*(run.infer_task(DATASET.test.images[:20]) for run in (collected, whole)))


def test_collecting_runs_over_different_weights_is_refused(file, tmp_path):
    experiment = adapter.changed(SHORT, scenario="GG", base_weights=str(file))
    folders = []
    for task in range(2):
        folders.append(tmp_path / f"seed=1~task={task}")
        folders[-1].mkdir()
        part = adapter.changed(experiment, first_task=task, num_tasks=1)
        write_run(folders[-1], part, DATASET, {"data": "none", "tasks_at_once": None})
        run_in(folders[-1], part)
        save_weights(file, trained(seed=7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(experiment.tasks), "load", lambda *_: DATASET)
        with pytest.raises(ss.UserError, match="has other base weights"):
            collect(folders)


def test_a_damaged_copy_of_the_weights_is_found(file, tmp_path):
    run_in(tmp_path / "run", adapter.changed(SHORT, num_tasks=1, base_weights=str(file)))
    shutil.rmtree(tmp_path / "run/state/0")
    with pytest.raises(ss.UserError, match="state/0 cannot be read"):
        ss.restore(tmp_path / "run")


def test_a_script_takes_a_file_and_a_command_writes_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["--num-tasks", 1, "--steps", 5, "--width", 0.1, "--scenario", "GG"]
    adapter.call("experiments/quickstart.py", *quick, "--method", "UpperBound", "--log-dir", "backbone")
    printed = adapter.call("-m", "export-weights", "backbone/quickstart/seed=1", "backbone.safetensors")
    assert printed.strip() == "backbone.safetensors"
    adapter.call("experiments/quickstart.py", *quick, "--base-weights", "backbone.safetensors")
    backbone, run = (ss.restore(f"{folder}/quickstart/seed=1") for folder in ("backbone", "runs"))
    assert_equal(run.weights, backbone.weights_for(0))


def test_a_wrong_file_gives_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seeds in ([], ["--seeds", 2]):
        with pytest.raises(SystemExit) as end:
            adapter.call("experiments/quickstart.py", "--base-weights", "missing.msgpack", *seeds)
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: --base-weights {tmp_path}/missing.msgpack: does not exist")
        assert error.count("\n") == 1 and not list(tmp_path.iterdir())
