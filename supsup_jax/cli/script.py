"""The entry points: a script's `main`, and the commands for runs, which scripts have as well as the package."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from supsup_jax import registry
from supsup_jax.arguments import convert
from supsup_jax.cli import launch
from supsup_jax.cli.commands import COMMANDS
from supsup_jax.cli.options import arguments_of_user, parser_errors_as_user_errors
from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition
from supsup_jax.runs.run import Run
from supsup_jax.system import backend


@launch.errors_in_one_line()
@arguments_of_user()
def main(
    experiment: Experiment, description: str | None, *, shares_run: bool = False, **sweep: Sequence[Any]
) -> list[Run]:
    """Runs an experiment as the command line says; a script's only call.

    A single run goes on in this process. Several, for seeds and values of settings, go each to the next free set of
    devices in a process of its own, or to a cluster. If the first argument is a command, such as in
    `python script.py evaluate runs/mine/seed=1`, the command is called as by `python -m supsup_jax`, with the parts of
    the script known.

    Args:
        experiment: the settings that the script stands for; the command line may change any.
        description: shown by `--help`.
        shares_run: whether a run of these settings that exists is resumed, or shown if it is finished, since other
            scripts use it too.
        sweep: values of settings, such as `er_scale=(8, 16)`: a run for each combination.

    Returns:
        The finished run, if it was a single one.

    Raises:
        SystemExit: with status 1 if a run of several failed, 2 after an error of the user's, 130 after Ctrl-C, 143
            after SIGTERM.
    """
    experiment = convert("experiment", experiment, Experiment)
    sweep = {name: convert(name, values, tuple[Any, ...]) for name, values in sweep.items()}
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        for kind, part in composition.objects_of(experiment).items():
            registry.offer(kind, part)
        call(f"python {Path(sys.argv[0]).name}", description)
        return []
    return launch.main(experiment, description, shares_run=shares_run, **sweep)


def call(program: str, description: str | None) -> None:
    """Calls the command that the command line names.

    Args:
        program: how it was started, for `--help`.
        description: shown by `--help`.

    Raises:
        UserError: if it cannot be done.
    """
    with parser_errors_as_user_errors():
        command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog=program, description=description)
    backend.use_one_blas_thread()
    backend.keep_compiled()
    command.run()
