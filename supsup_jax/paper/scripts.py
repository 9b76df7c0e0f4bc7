"""The scripts in `experiments/`, their settings, and the runs with these settings."""

import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition
from supsup_jax.runs.tables import Run, tries

FOLDER = Path(__file__).parents[2] / "experiments"
"""Folder of the scripts, beside the package; an installed wheel does not have it."""

# Settings in which runs of a script may differ. Different `er_scale` are different rows and curves.
_FREE = ("seed", "num_tasks", "eval_at", "first_task", "er_scale")

# Further settings in which runs of a script may differ, by the name of the experiment.
_VARIED = {"GNu/MNISTPerm/ablation": ("network", "features", "objective")}


class Script(NamedTuple):
    """A script that runs an experiment."""

    path: Path
    experiment: Experiment


@cache
def script_of(name: str) -> Script | None:
    """Return the script of the experiment with this name, or `None` if there is none.

    This is `experiments/<name>.py`, or a script in the same folder that declares the experiment.
    """
    path = FOLDER / f"{name}.py"
    candidates = [path] if path.is_file() else sorted(path.parent.glob("*.py"), reverse=True)
    for candidate in candidates:
        experiment = _load(candidate)
        if experiment and experiment.name == name:
            return Script(candidate, experiment)
    return None


def _load(path: Path) -> Experiment | None:
    """Return the `EXPERIMENT` that a script declares, without running it."""
    spec = importlib.util.spec_from_file_location(f"supsup_jax_script_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, "EXPERIMENT", None)


def expected_settings(name: str, runs: Iterable[Run]) -> dict[str, Any]:
    """Return the expected settings of an experiment's runs: the script's, or without a script the newest run's.

    Args:
        name: name of the experiment.
        runs: runs of this experiment.
    """
    if script := script_of(name):
        return composition.plain(script.experiment)
    newest = max(runs, key=lambda run: run.age[1], default=None)
    return with_defaults(newest) if newest else {}


def with_defaults(run: Run) -> dict[str, Any]:
    """Return the settings of a run, with defaults for settings that were added later."""
    return composition.normalised(run.experiment)


def other_settings(run: Run, expected: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that differ from the expected ones, except settings that may differ."""
    free = {*_FREE, *_VARIED.get(run.name, ())}
    settings = with_defaults(run)
    return {
        name: settings.get(name) for name, value in expected.items() if name not in free and settings.get(name) != value
    }


def of_scripts(runs: Iterable[Run]) -> list[Run]:
    """Return the newest evaluated run with its script's settings, for each experiment, variant and seed."""
    newest = []
    evaluated = [run for run in runs if run.accuracies["given"]]
    expected = {
        name: expected_settings(name, [run for run in evaluated if run.name == name])
        for name in {run.name for run in evaluated}
    }
    for same in tries(evaluated):
        fitting = [run for run in same if not other_settings(run, expected[run.name])]
        newest += fitting[:1]
    return newest
