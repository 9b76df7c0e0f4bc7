"""Readers of a run that another process writes: each sees one consistent state, and none fails."""

import contextlib
import itertools
import json
import os
import shutil
import threading
import time

import jax
import numpy as np
import pytest

import supsup_jax as ss
from helpers import adapter
from helpers.figures import LENET, write_run
from helpers.runs import DATASET, OTHERS
from supsup_jax.runs import checkpoints, results, tables
from supsup_jax.runs.records import EvaluationResult, Record, TaskResult
from supsup_jax.system import reading

EXPERIMENT = adapter.changed(OTHERS["LowerBound"], num_tasks=3, steps=3, eval_at=(1, 2))
"""Each task changes the weights, which are stored beside the checkpoints."""

WRITES = 1.0
"""Seconds for which other threads write."""


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned") / "seed=1"
    folder.mkdir()
    adapter.run_experiment(EXPERIMENT, DATASET, folder, 1)
    return folder


@pytest.fixture
def folder(learned, tmp_path):
    return shutil.copytree(learned, tmp_path / "seed=1")


@contextlib.contextmanager
def written(*changes):
    """Make changes repeatedly in another thread; yields a list with the number of completed rounds."""
    stop, rounds, failures = threading.Event(), [0], []

    def write():
        try:
            while not stop.is_set():
                for change in changes:
                    change()
                rounds[0] += 1
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield rounds
    finally:
        stop.set()
        writer.join()
    assert not failures, failures[0]


def until_over():
    """Count for `WRITES` seconds, and at least three times."""
    started = time.monotonic()
    return itertools.takewhile(lambda count: count < 3 or time.monotonic() - started < WRITES, itertools.count())


def contents(folder, step=None):
    run = ss.restore(folder, step)
    return run.num_tasks, len(run.record.evaluations), jax.device_get(run.weights)


def test_unfinished_checkpoints_that_come_and_go_are_ignored(folder):
    whole = contents(folder)
    unfinished = folder / "checkpoints/9.orbax-checkpoint-tmp"

    def make():
        (unfinished / "arrays/d").mkdir(parents=True)
        (unfinished / "arrays/link").symlink_to("nowhere")
        (folder / ".settings.yaml.1.unfinished").touch()

    def remove():
        shutil.rmtree(unfinished)
        (folder / ".settings.yaml.1.unfinished").unlink()

    with written(make, remove) as rounds:
        for _ in until_over():
            jax.tree.map(np.testing.assert_array_equal, contents(folder), whole)
    assert rounds[0] > 3


def test_tasks_and_weights_are_of_one_checkpoint_while_others_appear(folder, tmp_path):
    steps = sorted((folder / "checkpoints").iterdir(), key=lambda step: int(step.name))
    weights = {}
    for step in range(len(steps) - 3, len(steps)):
        with contextlib.suppress(ss.UserError):  # the last two states are kept
            tasks, evaluations, of_step = contents(folder, step)
            weights[tasks, evaluations] = of_step
    assert len(weights) > 1
    aside = tmp_path / "aside"
    aside.mkdir()
    last = steps[-1]
    moves = [lambda: last.rename(aside / last.name), lambda: (aside / last.name).rename(last)]
    seen = set()
    with written(moves[0], lambda: time.sleep(0.02), moves[1], lambda: time.sleep(0.02)):
        for _ in until_over():
            tasks, evaluations, found = contents(folder)
            jax.tree.map(np.testing.assert_array_equal, found, weights[tasks, evaluations])
            seen.add((tasks, evaluations))
    assert seen <= weights.keys()


def test_a_slow_reader_restarts_when_new_checkpoints_replace_weights(folder, tmp_path, monkeypatch):
    """Each task replaces the base weights, so old ones are missing when a slow reader has read all records."""
    whole = contents(folder)
    later = sorted((folder / "checkpoints").iterdir(), key=lambda step: int(step.name))[2:]
    for step in later:
        step.rename(tmp_path / step.name)
    read = checkpoints.read_record

    def slowly(manager, number):
        if number == 1:
            for step in later:
                with contextlib.suppress(FileNotFoundError):
                    (tmp_path / step.name).rename(step)
        return read(manager, number)

    monkeypatch.setattr(checkpoints, "read_record", slowly)
    monkeypatch.setattr(reading, "_PAUSES", ())
    jax.tree.map(np.testing.assert_array_equal, contents(folder), whole)


def test_files_that_a_network_file_system_lists_late_are_read(folder, monkeypatch):
    whole = contents(folder)
    listed, lists = os.listdir, []

    def late(path):
        names = listed(path)
        if os.path.basename(path) == "checkpoints":
            lists.append(names)
            return [name for name in names if name != "1"] if len(lists) < 3 else names
        return names

    monkeypatch.setattr(os, "listdir", late)
    jax.tree.map(np.testing.assert_array_equal, contents(folder), whole)
    assert lists


def test_a_run_is_read_again_until_it_is_complete(folder, tmp_path, monkeypatch):
    whole = contents(folder)
    missing = folder / "state"
    missing.rename(tmp_path / "state")
    monkeypatch.setattr(reading.time, "sleep", lambda _: (tmp_path / "state").rename(missing))
    jax.tree.map(np.testing.assert_array_equal, contents(folder), whole)


def test_reading_a_damaged_run_ends_with_an_error(folder, monkeypatch):
    monkeypatch.setattr(reading, "_PATIENCE", 0.1)
    shutil.rmtree(folder / "state")
    changes = (folder / "other").touch, (folder / "other").unlink
    with written(*changes), pytest.raises(ss.UserError, match=r"state/\d cannot be read \(it is missing\)"):
        ss.restore(folder)
    assert not (folder / "state").exists(), "a reader writes nothing"


def measured(tasks):
    """Return a record with an evaluation after each of these numbers of tasks."""
    when = "2020-12-06 12:00:00"
    results = [EvaluationResult(count, when, 1.0, 1.0, {"masks as bits": count}, [0.5] * count) for count in tasks]
    return Record([TaskResult(task, when, 0.1, 0.5, 0.5, 1.0) for task in range(len(tasks))], results)


def test_tables_of_a_run_are_read_consistently(tmp_path):
    folder = write_run(tmp_path, f"{LENET}/psp", 1, [0.5])
    both = measured([1]), measured([1, 2])

    def write(record):
        results.write_files(folder, folder.name, record)
        time.sleep(0.02)

    write(both[0])
    seen = set()
    with written(*(lambda record=record: write(record) for record in both)):
        for _ in until_over():
            (run,) = tables.read_runs([tmp_path])
            assert run.accuracies["given"].keys() <= run.storage.keys() & run.timing.evaluations.keys()
            assert run.accuracies["given"].keys() == run.accuracies["learned"].keys()
            seen.add(len(run.accuracies["given"]))
    assert seen <= {1, 2}


def test_evaluations_that_are_not_in_all_tables_yet_are_ignored(tmp_path):
    folder = write_run(tmp_path, f"{LENET}/psp", 1, [0.5])
    results.write_files(folder, folder.name, measured([1]))
    before = (folder / "metrics.jsonl").read_text()
    results.write_files(folder, folder.name, measured([1, 2]))
    (folder / "metrics.jsonl").write_text(before + '{"kind": "task", "ta')  # a line that is being written
    (run,) = tables.read_runs([tmp_path])
    assert (run.accuracies["given"], run.storage, run.timing.tasks) == ({1: 50}, {1: {"masks as bits": 1}}, 1)


def test_a_run_that_is_removed_during_the_search_is_ignored(tmp_path, monkeypatch):
    write_run(tmp_path / "a", f"{LENET}/psp", 1, [0.5, 0.5])
    removed = write_run(tmp_path / "b", f"{LENET}/psp", 2, [0.5, 0.5])
    read = tables.read_settings
    monkeypatch.setattr(
        tables, "read_settings", lambda folder: (folder == removed and shutil.rmtree(folder)) or read(folder)
    )
    assert [run.seed for run in tables.read_runs([tmp_path])] == [1]


def test_a_partly_written_line_of_metrics_is_not_damage(tmp_path):
    folder = write_run(tmp_path, f"{LENET}/psp", 1, [0.5, 0.5], learned=[0.5])
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text() + json.dumps({"kind": "task"})[:-1])
    assert tables.read_runs([tmp_path])[0].timing.tasks == 1
    path.write_text("{\n" + path.read_text())
    with pytest.raises(ss.UserError, match=r"metrics.jsonl is damaged"):
        tables.read_runs([tmp_path])
