"""Entry points: a script's `main`, and the commands for runs, which both scripts and the package have."""

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
    """Run an experiment with the settings of the command line; a script calls this and nothing else.

    A single run uses this process. Several runs, for different seeds or values of settings, use separate processes,
    each on the next free set of devices, or are submitted to a cluster. If the first argument is a command, as in
    `python script.py evaluate runs/mine/seed=1`, the command is called as by `python -m supsup_jax`, and can use the
    parts that the script defines.

    Args:
        experiment: the script's experiment; flags change its settings.
        description: shown by `--help`.
        shares_run: whether an existing run with the same settings is used without `--resume`, because several scripts
            share it: it is resumed, or shown if it is finished.
        sweep: values of settings, such as `er_scale=(8, 16)`: a run for each combination.

    Returns:
        The finished run, or an empty list if there were several runs.

    Raises:
        SystemExit: with status 1 if one of several runs failed, 2 after a `UserError`, 130 after Ctrl-C, 143 after
            SIGTERM.
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
    """Run the command that the command line names.

    Args:
        program: name of the program in `--help`.
        description: shown by `--help`.

    Raises:
        UserError: if an argument or a run cannot be used.
    """
    with parser_errors_as_user_errors():
        command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog=program, description=description)
    backend.use_one_blas_thread()
    backend.keep_compiled()
    command.run()
