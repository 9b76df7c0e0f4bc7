"""The program that resumes a run in a process of its own.

It is `python -m supsup_jax`, or the script that calls `main` if the experiment has parts that only the script knows.
"""

import os
import shlex
import sys

from supsup_jax import registry
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition

PACKAGE = ("-m", "supsup_jax")
"""The arguments of Python that start the package."""


def program_of(experiment: Experiment) -> tuple[str, ...]:
    """The arguments of Python that start the program.

    Raises:
        UserError: if the experiment needs a script, and this process does not run one.
    """
    if not _needs_script(experiment):
        return PACKAGE
    main = sys.modules["__main__"]
    if (spec := getattr(main, "__spec__", None)) is not None:
        return "-m", spec.name.removesuffix(".__main__")
    if (file := getattr(main, "__file__", None)) is not None:
        return (os.path.abspath(file),)
    raise UserError("several runs with parts of your own need a script that calls main; write them in a file")


def how_to_resume(experiment: Experiment, folder: object) -> str:
    """The command that resumes a run, for messages."""
    try:
        program = program_of(experiment)
    except UserError:  # a notebook
        return "ss.main"
    shown = [os.path.relpath(part) if os.path.isabs(part) else part for part in program]
    return f"python {shlex.join(shown)} run {folder}"


def _needs_script(experiment: Experiment) -> bool:
    """Whether a process that has not loaded the script cannot make the experiment from its settings."""
    if not all(map(registry.is_installed, composition.objects_of(experiment).values())):
        return True
    try:
        return composition.experiment_of(composition.plain(experiment)) != experiment
    except UserError:
        return True
