"""What all commands have in common."""

import contextlib
import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from supsup_jax.errors import UserError

Runs = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...", help_behavior_hint="(at least one)")
]
"""Runs on the command line: see `folders`."""

OneRun = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
"""One run on the command line."""


def folders(runs: tuple[Path, ...], command: str) -> list[Path]:
    """The runs that a command was given.

    Raises:
        UserError: if it was given none.
    """
    if not runs:
        raise UserError(f"{command} needs runs; give the folder of a run, or one above several")
    return [run.expanduser() for run in runs]


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """A command of `python -m supsup_jax`; its fields are its arguments."""

    json: bool = False
    """Print JSON, for other programs."""

    @abstractmethod
    def run(self) -> None:
        """Does it.

        Raises:
            UserError: if it cannot be done.
        """

    def print_result(self, plain: Any, show: Callable[[], None]) -> None:
        """Prints plain data as JSON, if that was asked for, or else shows them."""
        if self.json:
            print(json.dumps(_plain(plain), allow_nan=False))
        else:
            show()

    @contextlib.contextmanager
    def messages_on_stderr(self) -> Iterator[None]:
        """Prints to stderr what is no JSON, if that was asked for."""
        with contextlib.redirect_stdout(sys.stderr if self.json else sys.stdout):
            yield


def _plain(value: Any) -> Any:
    """A value as JSON has it, which knows no arrays, no paths and nothing that is not a number."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)
