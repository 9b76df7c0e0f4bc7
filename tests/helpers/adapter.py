"""The internals of the package that the tests of pinned numbers, runs and flags depend on.

Those tests use what users have: scripts, `python -m supsup_jax`, `supsup_jax.restore` and a run's methods, and the
files of a run. Everything else is here, so that a change of the package's structure changes this file and no test.
"""

import contextlib
import io
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import numpy as np

import supsup_jax as ss
from supsup_jax import data
from supsup_jax.cli.commands import COMMANDS
from supsup_jax.data import Inputs
from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition
from supsup_jax.runs.settings import checked, experiment_of
from supsup_jax.runs.train import run_experiment as run_in_folder

ROOT = Path(__file__).parents[2]
SCRIPTS = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "experiments").rglob("*.py"))]
CALLS = [*SCRIPTS, *(f"-m {command}" for command in COMMANDS)]
"""Every script, and every command of `python -m supsup_jax`."""


def run(
    settings: dict[str, Any],
    folder: Path,
    data_folder: str | Path = ".",
    report: Callable[[str], None] = lambda message: None,
) -> None:
    """Runs an experiment, or resumes it.

    Args:
        settings: by the names that `settings.yaml` has for them.
        folder: the run's folder; it must exist.
        data_folder: holds the data set, where it is not embedded.
        report: called with each progress message.
    """
    experiment = experiment_of({"name": "pinned"} | settings, Path("settings"))
    dataset = experiment.tasks.load(Path(data_folder))
    run_in_folder(experiment, dataset, folder, tasks_at_once=2, report=lambda said: report(said.message))


def arrays(run: Any) -> dict[str, list[np.ndarray]]:
    """The arrays of a restored run: base weights, what is kept of all tasks, and their batch-norm statistics."""
    trees = {"weights": run.weights, "kept": run.bank, "statistics": run.stats}
    return {name: [np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for name, tree in trees.items()}


def experiment(name: str, dataset: str = "mnist", **settings: Any) -> Experiment:
    """An experiment, by the names that `settings.yaml` has for its settings."""
    plain = {"name": name, "dataset": dataset} | settings
    return composition.experiment_of(checked(plain, Path("settings")))


def changed(experiment: Experiment, **settings: Any) -> Experiment:
    """An experiment with other settings, by the names that `settings.yaml` has for them."""
    return composition.changed(experiment, **settings)


def plain(experiment: Experiment) -> dict[str, Any]:
    """What `settings.yaml` says of an experiment."""
    return composition.plain(experiment)


def settings_of(experiment: Experiment) -> SimpleNamespace:
    """The settings of an experiment as attributes."""
    return SimpleNamespace(**composition.settings_of(experiment))


def differences(experiment: Experiment, recorded: dict[str, Any]) -> list[str]:
    """The settings in which an experiment differs from a recorded one."""
    return composition.differences(experiment, recorded)


def run_experiment(experiment: Experiment, dataset: Any, folder: Path, *arguments: Any, **options: Any) -> Any:
    """Runs an experiment in a folder, or resumes it, and gives what came of it."""
    return run_in_folder(experiment, dataset, folder, *arguments, **options)


def own_run(
    network: Any = "LeNet",
    num_classes: int = 10,
    image_shape: Any = (8, 8, 1),
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    **settings: Any,
) -> Any:
    """A run from Python that has not learned anything yet, given settings by flat names."""
    inputs = Inputs.new(image_shape if isinstance(network, str) else network.input_shape, num_classes, mean, std)
    objects = {} if isinstance(network, str) else {"network": network}
    named = {"network": network} if isinstance(network, str) else {"network": "own"}
    if settings.get("method", "SupSup") not in ("SupSup", "Transfer"):
        settings = {"scenario": "GG"} | settings
    given = {"name": "own", "dataset": "own", "benchmark": "own"} | settings | named
    whole = experiment_of(given, Path("own_run"), objects)
    parts = {"scenario": whole.scenario, "training": whole.training, "seed": whole.seed}
    parts |= {"first_task": whole.first_task}
    return ss.Run.new(whole.network, whole.method, inputs=inputs, **parts)


def task_images(folder: Path, task: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first test images of a task of a run on digits, as its network sees them, and their labels."""
    experiment = ss.restore(folder).experiment
    dataset = data.load_digits()
    benchmark = experiment.build(dataset).benchmark
    described = jax.tree.map(lambda leaf: leaf[0], benchmark.tasks(dataset, experiment.seed, [task]))
    images, labels = benchmark.samples(dataset.test, described, np.arange(count), train=False)
    pixels = np.asarray(images) * np.array(dataset.std) + np.array(dataset.mean)
    return np.rint(255 * pixels).astype(np.uint8), np.asarray(labels)


def call(script: str | Path, *arguments: Any) -> str:
    """Runs a script, or a command of `python -m supsup_jax`, in this process; with what it printed.

    Args:
        script: its path below the repository, or "-m" for the package itself.
        arguments: of its command line.

    Raises:
        SystemExit: where it ends with another status than 0.
    """
    path = str(ROOT / ("supsup_jax/__main__.py" if script == "-m" else script))
    printed = io.StringIO()
    with mock.patch.object(sys, "argv", [path, *map(str, arguments)]), contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    return printed.getvalue()


def flags(script: str | Path, *command: str) -> dict[str, str | None]:
    """Every flag of a script, or of a command of `python -m supsup_jax`, with its default as `--help` shows it."""
    with mock.patch.dict(os.environ, COLUMNS="100"):  # much wider, and there are two columns
        text = call(script, *command, "--help")
    return dict(_flags_in(text))


def _flags_in(text: str) -> Iterator[tuple[str, str | None]]:
    """The flags that a help text explains, in lines that are indented further than those of the flags."""
    entries = [""]
    for line in text.splitlines():
        line = line.removeprefix("│").rstrip("│ ")
        if not line.strip() or re.match(r" {0,2}(-[a-zA-Z], )?--[a-z]|[╭╰]", line):
            entries.append("")
        entries[-1] += f"{line} "
    for entry in entries:
        if re.match(r" {0,2}(?:-[a-zA-Z], )?--[a-z]", entry):
            default = re.search(r"\(default: (.*)\) *$", entry)
            for name in re.findall(r"--[a-z][a-z-]*", re.split(r" {3,}|\(default:", entry.strip())[0]):
                yield name, default and " ".join(default[1].split()).strip("'")  # some versions of tyro quote paths
