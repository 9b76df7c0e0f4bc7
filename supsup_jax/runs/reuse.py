"""Tasks that a different run has learned, for a new run that would learn them in the same way."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from supsup_jax.data import Inputs
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition, formats, merging, results
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.chunks import Chunk
from supsup_jax.runs.initial import start_in
from supsup_jax.runs.records import Record
from supsup_jax.runs.run import Run
from supsup_jax.runs.task_store import LearnedTasks, NewTasks
from supsup_jax.scenarios import GG
from supsup_jax.scenarios.scenario import Scenario
from supsup_jax.system import numerics
from supsup_jax.system.reading import read_stable

# Settings that affect evaluations only; so do those of the search and its objective.
_OF_EVALUATION = {*formats.LONGER, "name", "search", "objective", "images_per_pick", "images_per_task", "eval_sample"}


class NotReusableError(UserError):
    """Error: a run cannot take the tasks of the other run."""


def differences(experiment: Experiment, recorded: Mapping[str, Any]) -> list[str]:
    """Return the settings that may affect learning in which an experiment differs from a recorded one.

    Args:
        experiment: the experiment.
        recorded: settings that a run of any version recorded.
    """
    now, before = _learning(experiment), _without_inference(composition.normalised(recorded), {})
    return [
        f"{name}: {before.get(name)} before, {now.get(name)} now"
        for name in dict.fromkeys([*now, *before])
        if now.get(name) != before.get(name)
    ]


def _learning(experiment: Experiment) -> dict[str, Any]:
    """Return the settings of an experiment that may affect learning."""
    return _without_inference(composition.plain(experiment), composition.objects_of(experiment))


def _without_inference(plain: Mapping[str, Any], objects: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those of evaluations, given the custom parts; those of an unknown search remain."""
    ignored = set(_OF_EVALUATION)
    with suppress(UserError):
        for part in composition.layout(plain, objects):
            if part.kind in ("search", "objective", "recovery"):
                ignored |= {setting.name for setting in part.settings}
    return {name: value for name, value in plain.items() if name not in ignored}


def is_possible(experiment: Experiment) -> bool:
    """Return whether the tasks of an experiment are learned independently of each other, and stored one by one."""
    method, scenario = experiment.method, experiment.scenario
    depends = experiment.has_dependent_tasks or method.trains_weights(0)
    return method.bank_grows and not depends and type(scenario).learn in (Scenario.learn, GG.learn)


def learned_alike(experiments: Sequence[Experiment]) -> list[int | None]:
    """Return for each experiment the index of the first earlier one that learns the same tasks; `None` without one."""
    first: dict[str, int] = {}
    found: list[int | None] = []
    for number, experiment in enumerate(experiments):
        if not is_possible(experiment):
            found.append(None)
            continue
        index = first.setdefault(json.dumps(_learning(experiment), sort_keys=True, default=str), number)
        parts = [(each.network, each.method, each.training) for each in (experiments[index], experiment)]
        found.append(index if index < number and parts[0] == parts[1] else None)
    return found


def check_folder(folder: Path) -> None:
    """Check that a folder contains the checkpoints of a run, before a new run takes its tasks.

    Raises:
        NotReusableError: if it does not.
    """
    if not results.has_checkpoints(folder):
        raise NotReusableError(
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
        NotReusableError: if the tasks are not learned independently, or the other run cannot be read or may learn
            differently.
    """
    if not is_possible(run.experiment):
        settings = composition.settings_of(run.experiment)
        whose = f"scenario {settings['scenario']}" if run.experiment.scenario.discovers else settings["method"]
        raise NotReusableError(f"--learned-in is for tasks that are learned independently, unlike those of {whose}")
    check_folder(folder)
    try:
        other = read_stable(partial(_read, folder, run), merging.places(folder))  # another process may be training it
    except NotReusableError:
        raise
    except UserError as error:
        raise NotReusableError(f"--learned-in: {error}") from error
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
        differing = differences(run.experiment, records[0]["experiment"])
        if flags := numerics.rounding_differs(records[0].get("flags", {})):
            differing.append(f"flags of JAX: {flags}")
        if not _are_equal(records[0].get("inputs"), run.inputs):
            differing.append("the data set")
        if differing:
            raise NotReusableError(
                f"--learned-in {folder} may have learned differently ({'; '.join(differing)}); give a run that differs "
                "only in search, objective, and how many images evaluations use"
            )
        other = Run(run.experiment, run.inputs, start_in(checkpoints, run.experiment))
        other.read(checkpoints)
    if any(task.labels for task in other.record.tasks):
        raise NotReusableError(f"--learned-in {folder} contains tasks learned from Python; give a run of a script")
    return other


def _are_equal(recorded: Any, inputs: Inputs) -> bool:
    """Return whether recorded inputs are the same, up to rounding of the mean and the standard deviation."""
    pairs = zip(Inputs.from_json(recorded), inputs, strict=True) if recorded else ()
    return all(np.shape(a) == np.shape(b) and np.allclose(a, b) for a, b in pairs)
