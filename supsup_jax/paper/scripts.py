"""The scripts in `experiments/`, their settings, and the runs that have these settings."""

import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition
from supsup_jax.runs.tables import Run, tries

FOLDER = Path(__file__).parents[2] / "experiments"
"""Where the scripts lie, beside the package; an installed wheel has none."""

# Settings with which a run still counts as one of its script. Rows and curves are told apart by `er_scale`.
_FREE = ("seed", "num_tasks", "eval_at", "first_task", "er_scale")

# Settings that the runs of a script vary beside these, by the name of the experiment.
_VARIED = {"GNu/MNISTPerm/ablation": ("network", "features", "objective")}


class Script(NamedTuple):
    """A script that runs an experiment."""

    path: Path
    experiment: Experiment


@cache
def script_of(name: str) -> Script | None:
    """The script of the experiment with this name, or `None` where there is none.

    It is `experiments/<name>.py`, or another script in the same folder, where several share an experiment.
    """
    path = FOLDER / f"{name}.py"
    candidates = [path] if path.is_file() else sorted(path.parent.glob("*.py"), reverse=True)
    for candidate in candidates:
        experiment = _load(candidate)
        if experiment and experiment.name == name:
            return Script(candidate, experiment)
    return None


def _load(path: Path) -> Experiment | None:
    """The `EXPERIMENT` that a script declares, without running the script's main part."""
    spec = importlib.util.spec_from_file_location(f"supsup_jax_script_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, "EXPERIMENT", None)


def expected_settings(name: str, runs: Iterable[Run]) -> dict[str, Any]:
    """The settings that runs of an experiment should have: its script's, or those of the newest run without a script.

    Args:
        name: the experiment's.
        runs: of this experiment.
    """
    if script := script_of(name):
        return composition.plain(script.experiment)
    newest = max(runs, key=lambda run: run.age[1], default=None)
    return with_defaults(newest) if newest else {}


def with_defaults(run: Run) -> dict[str, Any]:
    """The settings of a run. One that is newer than the run had its default."""
    return composition.normalised(run.experiment)


def other_settings(run: Run, expected: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run that differ from the expected ones in more than what may vary, by name."""
    free = {*_FREE, *_VARIED.get(run.name, ())}
    settings = with_defaults(run)
    return {
        name: settings.get(name) for name, value in expected.items() if name not in free and settings.get(name) != value
    }


def of_scripts(runs: Iterable[Run]) -> list[Run]:
    """Of each experiment, variant and seed the newest run that was evaluated and has the settings of its script."""
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
