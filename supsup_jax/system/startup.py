"""Imports JAX, which checks the values of its environment variables at that time."""

import os
import re
import sys
from typing import Any

from supsup_jax.errors import UserError, reason


def _import_jax() -> None:
    """Import JAX. If that fails in a script, the script prints one line and exits with status 2.

    Raises:
        UserError: if an environment variable of JAX has a value that JAX rejects.
    """
    try:
        import jax  # noqa: F401
    except ValueError as error:
        found = re.search(r"jax[._](\w+)", str(error), re.IGNORECASE)
        variable = f"JAX_{found[1].upper()}" if found else ""
        if variable not in os.environ:
            raise
        refused = UserError(f"{variable}={os.environ[variable]}: {reason(error)}; correct it, or unset it")
        if not hasattr(sys, "ps1"):  # not in an interactive session
            _print_in_one_line(refused)
        raise refused from None


def _print_in_one_line(refused: UserError) -> None:
    """Print an uncaught error as one line, since no context of a command exists yet."""
    previous = sys.excepthook

    def hook(kind: Any, value: Any, trace: Any) -> None:
        if value is not refused:
            previous(kind, value, trace)
            return
        print(f"error: {value}", file=sys.stderr)
        raise SystemExit(2)  # an uncaught exception exits with status 1

    sys.excepthook = hook


_import_jax()
