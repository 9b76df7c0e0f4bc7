"""Tasks whose batches several devices share, on small generated images."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supsup_jax
from helpers import adapter
from helpers.toys import abandons_coroutines, batch_norm_net, write_small_imagenet
from supsup_jax import UserError, data, methods, networks, optimizers
from supsup_jax.cli import collection, options
from supsup_jax.runs import checkpoints
from supsup_jax.runs.settings import write_run
from supsup_jax.scenarios import feeding, shared
from supsup_jax.system import devices, interruption
from supsup_jax.training import Learner

CLASSES, TRAIN, TEST = 20, 5, 3

EXPERIMENT = adapter.experiment(
    "test",
    dataset="imagenet",
    benchmark="SplitImageNet",
    network="LeNet",
    width=0.1,
    features=10,
    er_scale=8.0,
    scenario="GG",
    num_tasks=2,
    epochs=10,
    batch_size=16,
    optimizer="Adam",
    learning_rate=3e-2,
    weight_decay=0.0,
    schedule="cosine",
    warmup_epochs=1,
    image_size=14,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The folder of a small ImageNet."""
    folder = tmp_path_factory.mktemp("data")
    write_small_imagenet(folder, CLASSES, TRAIN, TEST)
    return folder


def run(folder, images, report=lambda report: None, **changes):
    experiment = adapter.changed(EXPERIMENT, **changes)
    dataset = experiment.tasks.load(images)
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "_PIECE", 0.0)  # every step is a piece
        return adapter.run_experiment(experiment, dataset, folder, report=report)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A run that was not interrupted."""
    return run(tmp_path_factory.mktemp("runs") / "whole", images)


def assert_same(run, expected):
    for part in ("bank", "stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(run.model, part), getattr(expected.model, part))
    plain = [
        [(task.task, task.loss, task.accuracy, task.best) for task in each.record.tasks] for each in (run, expected)
    ]
    assert plain[0] == plain[1]
    given = [[result.given for result in each.record.evaluations] for each in (run, expected)]
    assert given[0] == given[1]


@pytest.mark.thorough
def test_a_diverging_task_ends_the_run_and_keeps_earlier_tasks(images, whole, tmp_path, monkeypatch):
    original = shared._programs

    def spoilt(parts, trains_weights):
        programs, calls = original(parts, trains_weights), []

        def advance(start, progress, piece, task, order_key):
            calls.append(len(calls))
            if len(calls) == steps + 3:
                scores = jax.tree.map(lambda leaf: leaf * jnp.nan, progress.learned["params"])
                progress = progress._replace(learned=progress.learned | {"params": scores})
            return programs.advance(start, progress, piece, task, order_key)

        return programs._replace(advance=advance)

    steps = EXPERIMENT.build(EXPERIMENT.tasks.load(images)).steps
    per_epoch = steps // EXPERIMENT.training.epochs
    monkeypatch.setattr(shared, "_programs", cache(spoilt))
    # With a NaN score, the mask leaves out the weight, and the loss is finite.
    with pytest.raises(UserError, match=f"^task 1 diverged: at step {per_epoch} of {steps} its loss is nan; "):
        run(tmp_path / "run", images)
    assert supsup_jax.restore(tmp_path / "run").num_tasks == 1
    monkeypatch.setattr(shared, "_programs", original)
    assert_same(run(tmp_path / "run", images), whole)


def test_tasks_are_learned(whole):
    assert whole.record.evaluations[-1].given == pytest.approx([task.accuracy for task in whole.record.tasks])
    assert np.mean(whole.record.evaluations[-1].given) > 0.4  # chance level is 0.1


def test_images_that_do_not_fit_on_a_device_are_decoded_per_batch(whole, images, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "fits", lambda num_bytes: False)
    messages = []
    assert_same(run(tmp_path, images, lambda report: messages.append(report.message)), whole)
    assert any("does not fit on a device" in message for message in messages)


@pytest.mark.thorough
def test_an_interrupted_task_is_resumed_at_the_same_step(whole, images, tmp_path):
    def interrupt(report):
        if report.message.startswith("task 1: 3 of"):
            signal.raise_signal(signal.SIGTERM)

    with interruption.graceful(lambda _: None), pytest.raises(KeyboardInterrupt):
        run(tmp_path, images, interrupt)
    assert any((tmp_path / "unfinished").iterdir())
    messages = []
    assert_same(run(tmp_path, images, lambda report: messages.append(report.message)), whole)
    assert any(message.startswith("resuming task 1 after ") for message in messages)
    assert not any((tmp_path / "unfinished").iterdir())


@pytest.mark.thorough
@abandons_coroutines
def test_a_saved_unfinished_task_must_be_intact(images, tmp_path):
    def interrupt(report):
        if report.message.startswith("task 0: 2 of"):
            signal.raise_signal(signal.SIGTERM)

    other = tmp_path / "other"
    for folder, changes in ((tmp_path, {}), (other, {"learning_rate": 0.2})):
        folder.mkdir(exist_ok=True)
        with interruption.graceful(lambda _: None), pytest.raises(KeyboardInterrupt):
            run(folder, images, interrupt, **changes)
    (mine,) = tmp_path.glob("unfinished/*[0-9]")
    (theirs,) = other.glob("unfinished/*[0-9]")
    mine.rename(tmp_path / "mine")
    shutil.copytree(theirs, mine)
    with pytest.raises(checkpoints.UserError, match=r"a run with different settings .learning_rate: 0.2 before"):
        run(tmp_path, images)
    shutil.rmtree(mine)
    (tmp_path / "mine").rename(mine)
    shutil.copytree(mine, tmp_path / "mine")
    for array in mine.glob("arrays/**/d/*"):
        content = bytearray(array.read_bytes())
        content[len(content) // 2] ^= 1
        array.write_bytes(content)
    with pytest.raises(checkpoints.UserError, match=r"unfinished/\d+ cannot be read"):
        run(tmp_path, images)
    shutil.rmtree(mine)
    (tmp_path / "mine").rename(mine)
    (record,) = tmp_path.glob("unfinished/*/record/metadata")
    record.write_text("{")
    with pytest.raises(checkpoints.UserError, match="cannot be read"):
        run(tmp_path, images)


@pytest.mark.thorough
def test_tasks_learned_separately_are_collected_into_one_run(whole, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    for task in range(2):
        folders.append(tmp_path / f"seed=1~task={task}")
        folders[-1].mkdir()
        experiment = adapter.changed(EXPERIMENT, first_task=task, num_tasks=1)
        where = options.Options(data=images, log_dir=tmp_path)
        write_run(folders[-1], experiment, data.load_imagenet(images, 14), vars(where))
        alone = run(folders[-1], images, first_task=task, num_tasks=1)
        assert alone.record.tasks[0].loss == whole.record.tasks[task].loss
    assert collection.groups([tmp_path]) == [folders]
    before = sorted(tmp_path.iterdir())
    saves = iter([checkpoints.Checkpoints.save])  # the second one fails
    with monkeypatch.context() as patched, pytest.raises(StopIteration):
        patched.setattr(checkpoints.Checkpoints, "save", lambda *arguments: next(saves)(*arguments))
        collection.collect(folders)
    assert sorted(tmp_path.iterdir()) == before
    collected = collection.collect(folders)
    assert collected == tmp_path / "seed=1~collected"
    assert_same(run(collected, images), whole)
    assert collection.groups([tmp_path]) == [folders]


def test_runs_that_do_not_fit_together_are_not_collected(images, tmp_path):
    def folder(name, **changes):
        path = tmp_path / name
        path.mkdir()
        experiment = adapter.changed(EXPERIMENT, **changes)
        write_run(path, experiment, data.load_imagenet(images, 14), vars(options.Options(data=images)))
        (path / "metrics.jsonl").write_text(json.dumps({"kind": "evaluation", "num_tasks": experiment.num_tasks}))
        return path

    first = folder("first", num_tasks=1)
    for other, message in (
        (folder("gap", first_task=2, num_tasks=1), "gap: its first task is 2, but no run has task 1"),
        (folder("twice", num_tasks=1), "another run learned task 0 too; give one of them"),
        (folder("other", first_task=1, num_tasks=1, epochs=4), "settings differ from"),
    ):
        with pytest.raises(checkpoints.UserError, match=message):
            collection.collect([first, other])
    unfinished = folder("unfinished", first_task=1, num_tasks=1)
    (unfinished / "metrics.jsonl").unlink()
    with pytest.raises(checkpoints.UserError, match="is not finished; resume it: python -m supsup_jax run"):
        collection.collect([first, unfinished])
    assert not (tmp_path / "first~collected").exists()


@pytest.mark.thorough
def test_unreadable_images_are_listed_and_left_out(images, tmp_path):
    broken = tmp_path / "data"
    subprocess.run(["cp", "-r", images, broken], check=True)
    order = np.random.RandomState(1).permutation(CLASSES)
    train, test = (broken / "imagenet" / split / f"n{order[0]:08d}" / "0.JPEG" for split in ("train", "val"))
    train.write_bytes(train.read_bytes()[:300])
    test.write_bytes(b"")
    messages = []
    outcome = run(tmp_path / "run", broken, lambda report: messages.append(report.message), num_tasks=1)
    assert (tmp_path / "run" / "unreadable.txt").read_text().splitlines() == [str(test), str(train)]
    assert sum("1 images of task 0 cannot be read" in message for message in messages) == 3  # 2 × test, 1 × training
    of = CLASSES // 2 * TEST - 1
    right = outcome.record.evaluations[-1].given[0] * of
    assert right == pytest.approx(round(right), abs=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["BatchE", "UpperBound"])
def test_methods_that_train_weights_learn_and_resume(method, images, tmp_path):
    changes = {"method": method, "er_scale": None, "weights_learning_rate": 1e-2, "epochs": 5}
    expected = run(tmp_path / "whole", images, **changes)

    def interrupt(report):
        if report.message.startswith("task 0: 3 of"):
            signal.raise_signal(signal.SIGTERM)

    with interruption.graceful(lambda _: None), pytest.raises(KeyboardInterrupt):
        run(tmp_path / "again", images, interrupt, **changes)
    assert_same(run(tmp_path / "again", images, **changes), expected)
    assert np.mean(expected.record.evaluations[-1].given) > 0.3


def test_every_image_of_an_uneven_batch_counts_once():
    for batch in (1, 2, 3, 8, 9):
        shares = devices.shares(batch)
        assert shares.places.shape == shares.counts.shape == (2, -(-batch // 2))
        assert sorted(shares.places[shares.counts == 1].tolist()) == list(range(batch))


def updated(net, batch, devices_share):
    """Return the network after a step, and the loss, with the batch on all devices or on one."""
    weights, stats = net.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(batch, 5, 5, 1)).astype(np.float32), np.arange(batch) % 4
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    learner = Learner(net, methods.UpperBound(), optimizers.SGD(0.1))
    start = learner.start(weights, jax.random.key(1))
    if not devices_share:
        progress, loss = jax.jit(learner.update)(start, learner.begin(start, stats), images, labels)
        return progress.learned, progress.stats, loss
    learner = dataclasses.replace(learner, average=devices.average)
    shares = devices.shares(batch)

    def update(share, common):
        places, counts = share
        return learner.update(*common, images[places], labels[places], counts)

    progress, loss = devices.data_parallel(update)(tuple(shares), (start, learner.begin(start, stats)))
    return progress.learned, progress.stats, loss


def assert_trees_close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


def test_a_step_shared_by_devices_equals_a_step_of_one_device():
    net = networks.LeNet(4, 0.1, (5, 5, 1))  # two devices and 7 images: an uneven batch
    assert_trees_close(updated(net, 7, True), updated(net, 7, False))


def assert_synchronised_is_alone():
    alone = updated(batch_norm_net(), 8, False)
    assert_trees_close(updated(batch_norm_net(devices.AXIS), 8, True), alone)
    return alone


def test_a_shared_step_with_batch_norm_needs_synchronised_statistics():
    """Otherwise, each device has different statistics, and the loss differs."""
    alone = assert_synchronised_is_alone()
    *_, loss = updated(batch_norm_net(), 8, True)
    assert abs(float(loss - alone[2])) > 1e-3


def test_batches_contain_each_row_once():
    share = feeding.batches_of(places=7, batch_size=4, size=5)
    assert share.rows.shape == share.counts.shape == (2, 2, 2)
    counted = share.rows[share.counts == 1]
    assert sorted(counted.tolist()) == list(range(5))


SCRIPT = Path(__file__).parents[2] / "experiments/GG/splitimagenet/rn50-supsup.py"
SETTINGS = (
    *("--network", "LeNet", "--width", "0.1", "--image-size", "14", "--sparsity", "8", "--num-tasks", "2"),
    *("--epochs", "3", "--warmup-epochs", "1", "--batch-size", "16", "--learning-rate", "1e-2"),
)


def script(folder, images, devices, *arguments, before=()):
    """Start a script with this number of devices."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [*before, sys.executable, SCRIPT, "--data", images, "--log-dir", folder, *SETTINGS, *arguments]
    return subprocess.Popen(
        [*map(str, command)], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(*processes):
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, stderr) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, stderr
    return [stdout for stdout, _ in outputs]


def results_of(folder):
    (path,) = folder.glob("**/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def on_one_device(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    finished(script(folder, images, 1))
    return results_of(folder)


def assert_close(lines, expected_lines):
    """Compare results up to rounding, which may change the prediction of two images."""
    for line, expected in zip(lines, expected_lines, strict=True):
        assert [line.get(key) for key in ("kind", "task", "num_tasks")] == [
            expected.get(key) for key in ("kind", "task", "num_tasks")
        ]
        if line["kind"] == "task":
            assert line["loss"] == pytest.approx(expected["loss"], rel=0.02)
            assert line["accuracy"] == pytest.approx(expected["accuracy"], abs=2.1 / 30)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def preempted(first, *others):
    """Let a script compile its first step, stop it like SLURM does, and return what it printed."""
    printed = ""
    for line in first.stdout:
        printed += line
        if "decoding images" in line:
            break
    for process in (first, *others):
        process.terminate()
    for process in (first, *others):
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 143, stderr
        printed += stdout
    return printed


def on_two_hosts(folder, images, *arguments):
    coordinator = "--coordinator", f"127.0.0.1:{free_port()}", "--hosts", 2
    return [script(folder, images, 2, *coordinator, "--host", host, *arguments) for host in range(2)]


@pytest.mark.thorough
def test_a_run_is_the_same_on_four_devices_as_on_one(on_one_device, images, tmp_path):
    finished(script(tmp_path, images, 4))
    assert_close(results_of(tmp_path), on_one_device)


@pytest.mark.thorough
def test_two_hosts_share_a_run_resume_it_and_find_it_finished(on_one_device, images, tmp_path):
    assert "hosts: 2" in preempted(*on_two_hosts(tmp_path, images))
    first, second = finished(*on_two_hosts(tmp_path, images, "--resume"))
    assert "resuming task 0 after" in first
    # The first host prints, reads and writes. The second prints only the messages of JAX's C++ libraries, whose lines
    # may be mixed.
    assert {line for line in second.splitlines() if "peer ranks" not in line} <= {""}
    assert "learning task" not in second
    results = results_of(tmp_path)
    assert_close(results, on_one_device)
    first, _ = finished(*on_two_hosts(tmp_path, images, "--resume"))
    assert "learning task" not in first
    assert results_of(tmp_path) == results


@pytest.mark.parametrize(
    ("changes", "message"), [(["--seed", 2], "--seed is 2 on host 1"), (["--data", "."], "lacks train")]
)
@pytest.mark.thorough
def test_all_hosts_stop_if_one_has_other_settings_or_no_data(changes, message, images, tmp_path):
    coordinator = "--coordinator", f"127.0.0.1:{free_port()}", "--hosts", 2, "--host"
    processes = [script(tmp_path, images, 1, *coordinator, 0), script(tmp_path, images, 1, *coordinator, 1, *changes)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    expected = message if "--seed" in changes else "another host of the run has failed"
    assert expected in errors[0]
    assert message in errors[1]
    assert not any(tmp_path.iterdir())


@pytest.mark.thorough
def test_a_preempted_run_resumes_on_a_different_number_of_devices(on_one_device, images, tmp_path):
    preempted(script(tmp_path, images, 1))
    printed = preempted(script(tmp_path, images, 4, "--resume"))
    (last,) = finished(script(tmp_path, images, 1, "--resume"))
    assert "2 of 12 steps" in printed
    assert "resuming task 0 after" in last
    assert_close(results_of(tmp_path), on_one_device)


@pytest.mark.thorough
def test_synchronised_batch_norm_on_four_devices_equals_one_device():
    code = "import sys; sys.path.append('..'); import jax, test_sharded as t; assert jax.device_count() == 4"
    code += "; t.assert_synchronised_is_alone()"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, check=True)


@pytest.mark.thorough
def test_tasks_are_distributed_and_collected_on_the_command_line(on_one_device, images, tmp_path):
    (printed,) = finished(script(tmp_path, images, 1, "--tasks", "0:2", "--num-tasks", "1"))
    assert "seed=1~sparsity=8~task=1 finished" in printed
    module = [sys.executable, "-m", "supsup_jax"]
    result = subprocess.run([*module, "collect", tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.glob("**/seed=1~sparsity=8~collected")
    assert_close(results_of(folder), on_one_device)
    result = subprocess.run([*module, "imagenet", tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (row,) = [line for line in result.stdout.splitlines() if "SupSup" in line and "88.68" in line]
    assert [cell.strip() for cell in row.split("│")][2:5] == ["8", "2", "1"]


@pytest.mark.skipif(not (shutil.which("srun") and "SLURM_CONF" in os.environ), reason="requires srun, and SLURM_CONF")
@pytest.mark.thorough
def test_hosts_under_slurm_find_each_other(on_one_device, images, tmp_path):
    (printed,) = finished(script(tmp_path, images, 2, before=("srun", "--ntasks=2", "--overlap")))
    assert "hosts: 2" in printed
    assert_close(results_of(tmp_path), on_one_device)
