"""The program that resumes a run in a separate process.

It is `python -m supsup_jax`, or the script that calls `main` if only the script defines some of the experiment's parts.
"""

import os
import shlex
import sys

from supsup_jax import registry
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition

PACKAGE = ("-m", "supsup_jax")
"""Arguments of Python that start the package."""


def program_of(experiment: Experiment) -> tuple[str, ...]:
    """Return the arguments of Python that start the program.

    Raises:
        UserError: if the experiment requires a script, and this process does not run a script.
    """
    if not _needs_script(experiment):
        return PACKAGE
    main = sys.modules["__main__"]
    if (spec := getattr(main, "__spec__", None)) is not None:
        return "-m", spec.name.removesuffix(".__main__")
    if (file := getattr(main, "__file__", None)) is not None:
        return (os.path.abspath(file),)
    raise UserError(
        "several runs with custom parts require a script; write the experiment and the call of main in a file"
    )


def how_to_resume(experiment: Experiment, folder: object) -> str:
    """Return the command that resumes a run, for messages."""
    try:
        program = program_of(experiment)
    except UserError:  # a notebook
        return "ss.main"
    shown = [os.path.relpath(part) if os.path.isabs(part) else part for part in program]
    return f"python {shlex.join(shown)} run {folder}"


def _needs_script(experiment: Experiment) -> bool:
    """Return whether the settings alone, without the script, do not determine the experiment."""
    if not all(map(registry.is_installed, composition.objects_of(experiment).values())):
        return True
    try:
        return composition.experiment_of(composition.plain(experiment)) != experiment
    except UserError:
        return True
