"""Tasks that another run has learned, for a run that differs from it only in how the task is inferred."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition, formats, merging
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.chunks import Chunk
from supsup_jax.runs.initial import start_in
from supsup_jax.runs.records import Record
from supsup_jax.runs.run import Run
from supsup_jax.runs.task_store import LearnedTasks, NewTasks
from supsup_jax.system import hosts
from supsup_jax.system.reading import read_stable

_FLAG = "--learned-in"

# Settings without effect on what is learned; the settings of the search and the objective are others.
_OF_EVALUATION = (*formats.LONGER, "name", "search", "objective", "images_per_pick", "eval_sample")


def differences(experiment: Experiment, recorded: Mapping[str, Any]) -> list[str]:
    """Return the settings that affect learning in which an experiment differs from a recorded one.

    Args:
        experiment: the experiment.
        recorded: settings that a run recorded.

    Raises:
        UserError: if a recorded part is unknown.
    """
    of_search = {
        setting.name
        for values in (composition.settings_of(experiment), recorded)
        for part in composition.layout(values, composition.objects_of(experiment) | {"experiment": None})
        if part.kind in ("search", "objective", "recovery")
        for setting in part.settings
    }
    return composition.differences(experiment, recorded, {*_OF_EVALUATION, *of_search})


def is_possible(experiment: Experiment) -> bool:
    """Return whether the tasks of an experiment are learned independently of each other, and stored one by one."""
    return not experiment.in_turn and experiment.method.bank_grows


def learned_in(folder: Path, run: Run) -> NewTasks:
    """Return the tasks of another run that this run, which has no tasks yet, would learn in the same way.

    Args:
        folder: folder of the other run. If it has more tasks than the experiment of this run, the first ones are taken.
        run: this run.

    Raises:
        UserError: if the tasks are not learned independently, or the other run has no tasks, cannot be read, or learns
            differently.
    """
    if not is_possible(run.experiment):
        method = composition.settings_of(run.experiment)["method"]
        raise UserError(f"{_FLAG} takes tasks that are learned independently, not those of {method}; leave it out")
    read = [folder, *(folder / name for name in ("checkpoints", merging.FOLDER, "state"))]
    other = read_stable(partial(_read, folder, run), read)  # another process may be training it
    assert isinstance(other.tasks, LearnedTasks)
    count = min(other.num_tasks, run.experiment.num_tasks)
    everything = other.tasks.merge()
    return NewTasks(
        other.tasks.concatenate([Chunk(count, everything.bank, everything.stats)]),
        Record(tasks=other.record.tasks[:count]),
        {},
    )


def _read(folder: Path, run: Run) -> Run:
    """Read the other run as a run of this run's experiment.

    Raises:
        UserError: if it has no tasks, cannot be read, or learns differently.
    """
    with Checkpoints(folder) as checkpoints:
        records = hosts.broadcast(checkpoints.records)
        if not records or not any(save["new_tasks"] for save in records):
            raise UserError(
                f"{_FLAG} {folder} contains no learned tasks; give the folder of a run, such as runs/mine/seed=1"
            )
        if differing := differences(run.experiment, records[0]["experiment"]):
            raise UserError(
                f"{_FLAG} {folder}: it learns differently ({'; '.join(differing)}); give a run that differs only in "
                "search, objective and images per pick"
            )
        other = Run(run.experiment, run.inputs, start_in(checkpoints, run.experiment))
        other.read(checkpoints)
    if any(task.labels for task in other.record.tasks):
        raise UserError(f"{_FLAG} {folder} contains tasks that were learned from Python; give a run of a script")
    return other
