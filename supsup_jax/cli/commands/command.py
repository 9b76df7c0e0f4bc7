"""The base class of all commands."""

import contextlib
import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from supsup_jax.errors import UserError
from supsup_jax.system.yaml import parse_yaml

Runs = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...", help_behavior_hint="(at least one)")
]
"""Argument of a command that takes several runs: folders of runs, or folders that contain them (see `folders`)."""

OneRun = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
"""Argument of a command that takes one run: its folder."""

SearchName = Literal["one_shot", "binary", "shortlist", "exhaustive", "descent"] | None
"""Name of a search; `None` for that of the run's experiment."""

ObjectiveName = Literal["entropy", "superfluous", "maximum"] | None
"""Name of an objective; `None` for that of the run's experiment."""


def parse_settings(flag: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Parse `name=value` pairs; values are YAML.

    Args:
        flag: the flag that they were given to, for messages.
        pairs: the pairs.

    Raises:
        UserError: if an argument is not such a pair.
    """
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"{flag} {pair}: must be name=value, such as network=LeNet")
        try:
            settings[name] = parse_yaml(value)
        except ValueError:
            raise UserError(f"{flag} {pair}: the value is not valid YAML; quote it, such as name='a text'") from None
    return settings


def folders(runs: tuple[Path, ...], command: str) -> list[Path]:
    """Return the folders that a command was given, with `~` expanded.

    Raises:
        UserError: if the command was given no folder.
    """
    if not runs:
        raise UserError(
            f"{command} requires at least one RUN; give the folder of a run, or a folder that contains runs"
        )
    return [run.expanduser() for run in runs]


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """A command of `python -m supsup_jax`; its fields are its arguments."""

    json: bool = False
    """Print the result as JSON."""

    @abstractmethod
    def run(self) -> None:
        """Run the command.

        Raises:
            UserError: if an argument or a run cannot be used.
        """

    def print_result(self, plain: Any, show: Callable[[], None]) -> None:
        """Print `plain` as JSON with `--json`, and call `show` otherwise."""
        if self.json:
            print(json.dumps(_plain(plain), allow_nan=False))
        else:
            show()

    @contextlib.contextmanager
    def messages_on_stderr(self) -> Iterator[None]:
        """Redirect stdout to stderr with `--json`, so that stdout contains only JSON."""
        with contextlib.redirect_stdout(sys.stderr if self.json else sys.stdout):
            yield


def _plain(value: Any) -> Any:
    """Convert a value to types that JSON has: arrays to lists, paths to strings, NaN and infinity to `None`."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)
