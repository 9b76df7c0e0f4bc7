"""Copies of the tables of runs, without checkpoints and without the folders of a machine, to keep and to share."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from supsup_jax.errors import UserError
from supsup_jax.runs import results
from supsup_jax.runs.tables import TABLES, Run, find_runs
from supsup_jax.system import atomic

_KEPT = (*TABLES, "recovery.csv")

# Flags with folders and addresses of the machine; results do not depend on them.
_FLAGS_OF_MACHINE = ("--data", "--learned-in", "--log-dir", "--coordinator")


def prepare(folder: Path) -> None:
    """Create the folder for copies.

    Raises:
        UserError: if it cannot be written, or is the folder of a run.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--keep {folder} cannot be created ({error.strerror}); give another folder") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--keep {folder} cannot be written; give another folder")
    if (folder / results.SETTINGS).exists():
        raise UserError(f"--keep {folder} is the folder of a run; give a folder for the copies of all runs")


def keep(runs: Iterable[Run], folder: Path) -> None:
    """Copy the tables of runs to `folder/NAME/seed=N`, where they can be read like the runs themselves.

    A copy with the same settings is replaced, unless it has evaluations that the run lacks. With other settings, a run
    is copied to `seed=N~try=1` and so on.

    Args:
        runs: the runs; copies that are in the folder already stay as they are.
        folder: the folder; see `prepare`.

    Raises:
        UserError: if the name of an experiment would lead to another folder.
    """
    root = folder.resolve()
    runs = [run for run in runs if not run.folder.resolve().is_relative_to(root)]
    for run in runs:
        name = PurePosixPath(run.name)
        if name.is_absolute() or ".." in name.parts or "\0" in run.name:
            raise UserError(
                f"the run in {run.folder} has the name {run.name!r}, which leads out of {folder}; rename it"
            )
    for run in sorted(runs, key=lambda run: run.age):
        if (target := _target(run, folder)) is not None:
            _copy(run, target)


def _target(run: Run, folder: Path) -> Path | None:
    """Return the folder for the copy of a run; `None` if a copy has more evaluations."""
    parent, source = folder / run.name, run.folder.resolve()
    name = source.name.partition("~try=")[0]
    for existing in results.existing_folders(parent, name):
        if existing.resolve() == source:  # a link to the run
            return None
        if results.read_settings(existing).get("experiment") == _portable_settings(run.experiment):
            measured = {count for copy in find_runs(existing) for count in copy.accuracies["given"]}
            return existing if measured <= set(run.accuracies["given"]) else None
    return results.new_folder(parent, name)


def _copy(run: Run, target: Path) -> None:
    for table in _KEPT:
        source = run.folder / table
        if source.exists():
            atomic.write(target / table, source.read_bytes())
            status = source.stat()
            os.utime(target / table, ns=(status.st_atime_ns, status.st_mtime_ns))  # which tells newer runs from older
        else:
            (target / table).unlink(missing_ok=True)
    settings = {name: value for name, value in run.about.items() if name not in ("options", "platform")}
    settings |= {"experiment": _portable_settings(run.experiment), "command": portable_command(run.about)}
    results.write_text(target, yaml.safe_dump(settings, sort_keys=False))


def _portable_settings(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with the file of its base weights without its folder."""
    path = experiment.get("base_weights")
    return {**experiment, "base_weights": _portable(path)} if isinstance(path, str) else dict(experiment)


def portable_command(about: Mapping[str, Any]) -> list[str]:
    """Return the command of a run from the root of the repository, without `--resume` and the folders of the machine.

    Args:
        about: contents of the run's `settings.yaml`.
    """
    kept: list[str] = []
    belongs_to_machine = False
    for word in map(str, about.get("command") or []):
        flag, equals, _ = word.partition("=")
        flag = flag.replace("_", "-")
        if flag in _FLAGS_OF_MACHINE:
            belongs_to_machine = not equals
        elif belongs_to_machine:
            belongs_to_machine = False
        elif word != "--resume":
            kept.append(_portable(word))
    return kept


def _portable(word: str) -> str:
    """Return a script from its folder `experiments` on, and of other absolute paths the last part."""
    if not (PureWindowsPath(word).is_absolute() or PurePosixPath(word).is_absolute()):
        return word
    parts = re.split(r"[\\/]", word)
    return "/".join(parts[parts.index("experiments") :] if "experiments" in parts else parts[-1:])
