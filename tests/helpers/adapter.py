"""Internals of the package that tests of pinned numbers, runs and flags depend on.

Those tests use only what users have: scripts, `python -m supsup_jax`, `supsup_jax.restore`, the methods of a run, and
the files of a run. All other access is in this file, so that a change of the package's structure changes no test.
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
"""All scripts, and all commands of `python -m supsup_jax`."""


def run(
    settings: dict[str, Any],
    folder: Path,
    data_folder: str | Path = ".",
    report: Callable[[str], None] = lambda message: None,
) -> None:
    """Run an experiment, or resume it.

    Args:
        settings: settings by their names in `settings.yaml`.
        folder: folder of the run; it must exist.
        data_folder: folder with the data set, if it is not embedded in the package.
        report: called with each progress message.
    """
    experiment = experiment_of({"name": "pinned"} | settings, Path("settings"))
    dataset = experiment.tasks.load(Path(data_folder))
    run_in_folder(experiment, dataset, folder, tasks_at_once=2, report=lambda progress: report(progress.message))


def arrays(run: Any) -> dict[str, list[np.ndarray]]:
    """Return the arrays of a restored run: base weights, adapters and batch-norm statistics."""
    trees = {"weights": run.weights, "kept": run.bank, "statistics": run.stats}
    return {name: [np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for name, tree in trees.items()}


def experiment(name: str, dataset: str = "mnist", **settings: Any) -> Experiment:
    """Return an experiment, given settings by their names in `settings.yaml`."""
    plain = {"name": name, "dataset": dataset} | settings
    return composition.experiment_of(checked(plain, Path("settings")))


def changed(experiment: Experiment, **settings: Any) -> Experiment:
    """Return an experiment with other settings, by their names in `settings.yaml`."""
    return composition.changed(experiment, **settings)


def plain(experiment: Experiment) -> dict[str, Any]:
    """Return the settings of an experiment in the form of `settings.yaml`."""
    return composition.plain(experiment)


def settings_of(experiment: Experiment) -> SimpleNamespace:
    """Return the settings of an experiment as attributes."""
    return SimpleNamespace(**composition.settings_of(experiment))


def differences(experiment: Experiment, recorded: dict[str, Any]) -> list[str]:
    """Return the settings in which an experiment differs from a recorded one."""
    return composition.differences(experiment, recorded)


def run_experiment(experiment: Experiment, dataset: Any, folder: Path, *arguments: Any, **options: Any) -> Any:
    """Run an experiment in a folder, or resume it, and return the run."""
    return run_in_folder(experiment, dataset, folder, *arguments, **options)


def own_run(
    network: Any = "LeNet",
    num_classes: int = 10,
    image_shape: Any = (8, 8, 1),
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    **settings: Any,
) -> Any:
    """Return a run from Python without tasks, given settings by flat names."""
    inputs = Inputs.new(image_shape if isinstance(network, str) else network.input_shape, num_classes, mean, std)
    objects = {} if isinstance(network, str) else {"network": network}
    named = {"network": network} if isinstance(network, str) else {"network": "own"}
    if settings.get("method", "SupSup") not in ("SupSup", "Transfer"):
        settings = {"scenario": "GG"} | settings
    plain = {"name": "own", "dataset": "own", "benchmark": "own"} | settings | named
    experiment = experiment_of(plain, Path("own_run"), objects)
    parts = {"scenario": experiment.scenario, "training": experiment.training, "seed": experiment.seed}
    parts |= {"first_task": experiment.first_task}
    return ss.Run.new(experiment.network, experiment.method, inputs=inputs, **parts)


def task_images(folder: Path, task: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first test images of a task of a run on digits, as its network receives them, and their labels."""
    experiment = ss.restore(folder).experiment
    dataset = data.load_digits()
    benchmark = experiment.build(dataset).benchmark
    described = jax.tree.map(lambda leaf: leaf[0], benchmark.tasks(dataset, experiment.seed, [task]))
    images, labels = benchmark.samples(dataset.test, described, np.arange(count), train=False)
    pixels = np.asarray(images) * np.array(dataset.std) + np.array(dataset.mean)
    return np.rint(255 * pixels).astype(np.uint8), np.asarray(labels)


def call(script: str | Path, *arguments: Any) -> str:
    """Run a script, or a command of `python -m supsup_jax`, in this process, and return what it printed.

    Args:
        script: path of the script relative to the repository, or "-m" for the package.
        arguments: arguments of its command line.

    Raises:
        SystemExit: if it ends with a status other than 0.
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
    """Return every flag of a script or command, with its default as shown by `--help`."""
    with mock.patch.dict(os.environ, COLUMNS="100"):  # a much wider help text has two columns
        text = call(script, *command, "--help")
    return dict(_flags_in(text))


def _flags_in(text: str) -> Iterator[tuple[str, str | None]]:
    """List the flags in a help text; its explanations are indented further than the flags."""
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
