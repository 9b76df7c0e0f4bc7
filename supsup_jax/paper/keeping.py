"""Copies of the tables of runs, without checkpoints and without the folders of a machine, to keep and to share."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from supsup_jax.errors import UserError
from supsup_jax.runs.results import write_text
from supsup_jax.runs.tables import TABLES, Run
from supsup_jax.system import atomic

# Flags with folders of the machine.
_FOLDER_FLAGS = ("--data", "--log-dir")


def keep(runs: Iterable[Run], folder: Path) -> None:
    """Copy the tables of runs to `folder/NAME/seed=N`, where they can be read like the runs themselves.

    Of several runs with the same name and folder, the newest is kept.

    Args:
        runs: the runs; copies that are in the folder already stay as they are.
        folder: the folder, which is created if it does not exist.

    Raises:
        UserError: if the name of an experiment would lead to another folder.
    """
    for run in sorted(runs, key=lambda run: run.age):
        target = (folder / run.name / run.folder.name).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise UserError(f"the run in {run.folder} has the name {run.name}, which leads out of {folder}; rename it")
        if target == run.folder.resolve():
            continue
        target.mkdir(parents=True, exist_ok=True)
        for table in TABLES:
            if (run.folder / table).exists():
                atomic.write(target / table, (run.folder / table).read_bytes())
        settings = {name: value for name, value in run.about.items() if name != "options"}
        write_text(target, yaml.safe_dump(settings | {"command": portable_command(run.about)}, sort_keys=False))


def portable_command(about: Mapping[str, Any]) -> list[str]:
    """Return the command of a run from the root of the repository, without `--resume` and the folders of the machine.

    Args:
        about: contents of the run's `settings.yaml`.
    """
    words = [str(word) for word in about.get("command") or []]
    kept = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word not in (*_FOLDER_FLAGS, "--resume") and before not in _FOLDER_FLAGS
    ]
    return [re.sub(r".*(?=experiments/)", "", word.replace(os.sep, "/")) for word in kept[:1]] + kept[1:]
