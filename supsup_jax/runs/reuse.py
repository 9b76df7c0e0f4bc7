"""Tasks that a different run has learned, for a new run that would learn them in the same way."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition, formats, merging, results
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.chunks import Chunk
from supsup_jax.runs.initial import start_in
from supsup_jax.runs.records import Record
from supsup_jax.runs.run import Run
from supsup_jax.runs.task_store import LearnedTasks, NewTasks
from supsup_jax.system.reading import read_stable

# Kinds of parts that infer tasks, and fields of other parts that affect evaluations only.
_OF_INFERENCE = ("search", "objective", "recovery")
_OF_EVALUATION = {
    ("experiment", "name"),
    ("experiment", "evaluate_at"),
    ("tasks", "num_tasks"),
    ("scenario", "images_per_pick"),
    ("scenario", "images_per_task"),
    ("scenario", "eval_sample"),
}


def differences(experiment: Experiment, recorded: Mapping[str, Any]) -> list[str]:
    """Return the settings that may affect learning in which an experiment differs from a recorded one.

    Args:
        experiment: the experiment.
        recorded: settings that a run recorded.

    Raises:
        UserError: if a recorded part that affects learning is unknown.
    """
    objects = composition.objects_of(experiment)
    recorded = {name: value for name, value in recorded.items() if name not in map(formats.key_of, _OF_INFERENCE)}
    now, before = _settings({}, objects), _settings(recorded, objects | {"experiment": None})
    return [
        f"{field or kind}: {before.get((kind, field))} before, {now.get((kind, field))} now"
        for kind, field in dict.fromkeys([*now, *before])
        if now.get((kind, field)) != before.get((kind, field))
    ]


def _settings(values: Mapping[str, Any], objects: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Return the settings that may affect learning, by kind of the part and field; the field is "" for its name."""
    found: dict[tuple[str, str], Any] = {}
    for part in composition.layout(values, objects):
        if part.kind not in _OF_INFERENCE:
            if part.key:
                found[part.kind, ""] = part.name
            found |= {(part.kind, each.field): composition.plain_value(each.value) for each in part.settings}
    return {key: value for key, value in found.items() if key not in _OF_EVALUATION}


def is_possible(experiment: Experiment) -> bool:
    """Return whether the tasks of an experiment are learned independently of each other, and stored one by one."""
    method = experiment.method
    depends = experiment.in_turn or method.in_turn(0) or method.trains_weights(0)
    return method.bank_grows and not depends


def learned_alike(experiments: Sequence[Experiment]) -> list[int | None]:
    """Return for each experiment the index of the first earlier one that learns the same tasks; `None` without one."""
    found: list[int | None] = []
    for number, experiment in enumerate(experiments):
        earlier = range(number) if is_possible(experiment) else range(0)
        same = (index for index in earlier if not differences(experiment, composition.plain(experiments[index])))
        found.append(next(same, None))
    return found


def check_folder(folder: Path) -> None:
    """Check that a folder contains the checkpoints of a run, before a new run takes its tasks.

    Raises:
        UserError: if it does not.
    """
    if not results.has_checkpoints(folder):
        raise UserError(
            f"--learned-in {folder} does not contain a run's checkpoints; give the folder of a run, such as "
            "runs/mine/seed=1"
        )


def learned_in(folder: Path, run: Run) -> NewTasks | None:
    """Return the tasks of a different run that this run, which has no tasks yet, would learn in the same way.

    Returns `None` if the other run has not learned any task yet.

    Args:
        folder: folder of the other run. If it has more tasks than the experiment of this run, the first ones are taken.
        run: this run.

    Raises:
        UserError: if the tasks are not learned independently, or the other run cannot be read or may learn differently.
    """
    if not is_possible(run.experiment):
        method = composition.settings_of(run.experiment)["method"]
        raise UserError(f"--learned-in takes tasks that are learned independently, not those of {method}; leave it out")
    check_folder(folder)
    read = [folder, *(folder / name for name in ("checkpoints", merging.FOLDER, "state"))]
    other = read_stable(partial(_read, folder, run), read)  # another process may be training it
    if not other or not other.num_tasks:
        return None
    assert isinstance(other.tasks, LearnedTasks)
    count = min(other.num_tasks, run.experiment.num_tasks)
    everything = other.tasks.merge()
    chunk = other.tasks.concatenate([Chunk(count, everything.bank, everything.stats)])
    return NewTasks(chunk, Record(tasks=other.record.tasks[:count]), {})


def _read(folder: Path, run: Run) -> Run | None:
    """Read the other run as a run of this run's experiment; `None` if it has no checkpoint yet.

    Raises:
        UserError: if it cannot be read, or may learn differently.
    """
    with Checkpoints(folder) as checkpoints:
        records = checkpoints.records()
        if not records:
            return None
        if differing := differences(run.experiment, records[0]["experiment"]):
            raise UserError(
                f"--learned-in {folder} may have learned differently ({'; '.join(differing)}); give a run that differs "
                "only in search, objective and evaluation"
            )
        other = Run(run.experiment, run.inputs, start_in(checkpoints, run.experiment))
        other.read(checkpoints)
    if any(task.labels for task in other.record.tasks):
        raise UserError(f"--learned-in {folder} contains tasks that were learned from Python; give a run of a script")
    return other
