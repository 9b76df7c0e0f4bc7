"""Combination of runs that each learned some of the tasks into one run."""

import dataclasses
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supsup_jax.errors import UserError
from supsup_jax.runs import composition, results, tables
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.description import check_weights
from supsup_jax.runs.opening import restore
from supsup_jax.runs.records import Record
from supsup_jax.runs.settings import read_run, write_run
from supsup_jax.runs.task_store import LearnedTasks
from supsup_jax.system.progress import Progress

_COLLECTED = "~collected"


def groups(folders: Sequence[Path]) -> list[list[Path]]:
    """Group the evaluated runs in and below some folders: the runs of a group differ only in their tasks.

    Groups of a single run, and runs that were collected before, are skipped.

    Raises:
        UserError: if there is no group, or the runs of a group cannot be combined.
    """
    groups: dict[str, list[Path]] = {}
    for folder in sorted(run.folder for run in tables.read_runs(folders)):
        if _COLLECTED not in folder.name:
            experiment = composition.changed(read_run(folder)[0], first_task=0, num_tasks=1, eval_at=())
            groups.setdefault(json.dumps(composition.plain(experiment)), []).append(folder)
    several = [runs for runs in groups.values() if len(runs) > 1]
    if not several:
        raise UserError(
            f"{', '.join(map(str, folders))}: no runs that differ only in their tasks; give runs made with --tasks"
        )
    for runs in several:
        _in_order(runs)
    return several


def collect(folders: Sequence[Path], data_folder: Path | None = None) -> Path:
    """Combine runs that each learned some tasks into one run, beside the first of them.

    The new run equals a single run over all tasks, since what a task learns depends only on the seed and its number.

    Args:
        folders: finished runs that differ only in their tasks; their tasks are consecutive.
        data_folder: folder with data sets; by default the folder that the runs used.

    Returns:
        The folder of the new run, which is not evaluated yet.

    Raises:
        UserError: if the runs cannot be combined or read; then nothing is written.
    """
    order, runs = _in_order(folders)
    first, options, command = runs[order[0]]
    following = max(experiment.first_task + experiment.num_tasks for experiment, _, _ in runs.values())
    whole = composition.changed(first, num_tasks=following - first.first_task)
    dataset = first.tasks.load(data_folder or options["data"])
    about = restore(order[0]).about
    parent, where = order[0].parent, options | {"data": data_folder or options["data"], "tasks": None}
    name = re.sub(r"~task=\d+(~try=\d+)?$", "", order[0].name)
    with tempfile.TemporaryDirectory(
        prefix=".collecting-", dir=parent
    ) as temporary:  # moved to its place when complete
        unfinished = Path(temporary) / "run"
        unfinished.mkdir()
        write_run(unfinished, whole, dataset, where, command)
        with Checkpoints(unfinished, about | {"experiment": composition.plain(whole)}) as checkpoints:
            for folder in Progress("collecting", len(order), "runs").track(order):
                run = restore(folder)  # one at a time, since all of them may not fit in memory
                if run.num_tasks != run.experiment.num_tasks:
                    problem = f"has {run.num_tasks} tasks, expected {run.experiment.num_tasks}"
                    raise UserError(f"{folder} {problem}; leave it out")
                check_weights(about, run.about, folder)
                assert isinstance(run.tasks, LearnedTasks)
                state = run.stored_weights() if folder == order[0] else None
                checkpoints.save(run.tasks.merge(), Record(tasks=run.record.tasks).to_json(), state or None)
                checkpoints.merge(run.tasks)
        return unfinished.replace(results.new_folder(parent, f"{name}{_COLLECTED}"))


def _in_order(folders: Sequence[Path]) -> tuple[list[Path], dict[Path, Any]]:
    """Sort runs by their tasks, and return them with the result of `read_run` for each.

    Raises:
        UserError: if their tasks are not consecutive, their settings differ, or a run is not finished.
    """
    runs = {folder: read_run(folder) for folder in folders}
    order = sorted(folders, key=lambda folder: runs[folder][0].first_task)
    first, _, _ = runs[order[0]]
    following = first.first_task
    for folder in order:
        experiment, _, _ = runs[folder]
        alike = dataclasses.replace(experiment, first_task=first.first_task)
        if differences := composition.differences(first, composition.plain(alike)):
            raise UserError(
                f"{folder}: settings differ from {order[0]} ({'; '.join(differences)}); collect it separately"
            )
        if experiment.first_task < following:
            raise UserError(f"{folder}: another run learned task {experiment.first_task} too; give one of them")
        if experiment.first_task > following:
            raise UserError(
                f"{folder}: its first task is {experiment.first_task}, but no run has task {following}; give this run"
            )
        if not results.is_finished(folder, experiment.evaluations):
            raise UserError(f"{folder} is not finished; resume it: python -m supsup_jax run {folder}")
        following += experiment.num_tasks
    return order, runs
