import dataclasses
import shutil
from functools import partial
from typing import ClassVar

import jax
import numpy as np
import pytest
from filelock import FileLock
from toys import small_dataset

from supsup_jax import UserError, methods, scenarios
from supsup_jax.experiment import Experiment

EXPERIMENT = Experiment(
    "small", features=8, width=0.1, num_tasks=12, steps=30, batch_size=16, learning_rate=1e-2, eval_at=(3, 10)
)
DATASET = small_dataset()


def run(folder, experiment=EXPERIMENT, **options):
    folder.mkdir(exist_ok=True, parents=True)
    return scenarios.learn_given_tasks(experiment, DATASET, folder, **options)


def measured(record):
    """A record without times."""
    plain = record.to_json()
    for entry in plain["tasks"] + plain["evaluations"]:
        for key in ("finished", "seconds", "training_seconds"):
            entry.pop(key, None)
    return plain


class InterruptedForTestError(Exception):
    pass


def interrupt(progress, after):
    if progress.tasks >= after and progress.message.startswith("learning"):
        raise InterruptedForTestError


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "seed=1", tasks_at_once=4)


def test_a_run_evaluates_where_it_is_told_to(uninterrupted):
    assert [result.num_tasks for result in uninterrupted.record.evaluations] == [3, 10, 12]
    assert [task.task for task in uninterrupted.record.tasks] == list(range(12))
    assert np.mean(uninterrupted.record.evaluations[-1].given) > 0.9
    assert uninterrupted.record.evaluations[0].mask_bytes == sum(
        leaf.size for leaf in jax.tree.leaves(uninterrupted.weights)
    )


def test_a_run_leaves_its_files(uninterrupted):
    names = {path.name.split(".")[0] for path in uninterrupted.folder.iterdir()}
    assert {"adapt_results", "confusion", "metrics", "events", "checkpoints"} <= names
    assert len((uninterrupted.folder.parent / "results.csv").read_text().splitlines()) == 13


@pytest.mark.parametrize("after", [4, 8])
def test_a_resumed_run_ends_with_the_same_results(uninterrupted, tmp_path, after):
    folder = tmp_path / "seed=1"
    with pytest.raises(InterruptedForTestError):
        run(folder, tasks_at_once=4, report=partial(interrupt, after=after))
    resumed = run(folder, tasks_at_once=4)
    assert measured(resumed.record) == measured(uninterrupted.record)
    jax.tree.map(np.testing.assert_array_equal, resumed.store, uninterrupted.store)
    for name in ("adapt_results.csv", "confusion.csv"):

        def without_dates(path):
            return [line.partition(",")[2] for line in path.read_text().splitlines()]

        assert without_dates(folder / name) == without_dates(uninterrupted.folder / name)
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 13


def test_results_do_not_depend_on_the_chunks(uninterrupted, tmp_path):
    other = run(tmp_path / "seed=1", tasks_at_once=5)
    assert measured(other.record) == measured(uninterrupted.record)
    jax.tree.map(np.testing.assert_array_equal, other.store, uninterrupted.store)


def test_a_finished_run_is_extended(uninterrupted, tmp_path):
    folder = tmp_path / "seed=1"
    run(folder, dataclasses.replace(EXPERIMENT, num_tasks=3), tasks_at_once=4)
    extended = run(folder, tasks_at_once=4)
    assert measured(extended.record) == measured(uninterrupted.record)
    jax.tree.map(np.testing.assert_array_equal, extended.store, uninterrupted.store)


def test_a_folder_in_use_is_left_alone(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="is in use by another process"):
        run(tmp_path)


def test_a_folder_is_free_again_after_an_error(tmp_path):
    folder = tmp_path / "seed=1"
    with pytest.raises(InterruptedForTestError) as kept:
        run(folder, dataclasses.replace(EXPERIMENT, num_tasks=3), report=partial(interrupt, after=0))
    run(folder, dataclasses.replace(EXPERIMENT, num_tasks=3))
    assert kept


def test_a_run_of_other_settings_is_not_gone_on_with(uninterrupted):
    with pytest.raises(UserError, match=r"holds a run of other settings .*steps: 30 before, 31 now"):
        run(uninterrupted.folder, dataclasses.replace(EXPERIMENT, steps=31))


def test_a_damaged_checkpoint_loses_nothing_else(uninterrupted, tmp_path):
    folder = tmp_path / "seed=1"
    shutil.copytree(uninterrupted.folder, folder)
    damaged = folder / "checkpoints/1/record/metadata"
    damaged.write_bytes(damaged.read_bytes()[:20])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="checkpoints/1 cannot be read"):
        run(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_tasks_that_depend_on_each_other_are_learned_one_by_one(tmp_path, monkeypatch):
    class InTurn(methods.SupSup):
        independent: ClassVar[bool] = False

    monkeypatch.setattr(methods, "SupSup", InTurn)
    learned = []
    run(
        tmp_path / "seed=1",
        dataclasses.replace(EXPERIMENT, num_tasks=3),
        tasks_at_once=8,
        report=lambda progress: learned.append(progress.tasks),
    )
    assert {0, 1, 2, 3} == set(learned)
