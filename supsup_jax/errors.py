"""Errors that the user has to fix, and warnings."""

import sys
from functools import cache
from typing import Any


class UserError(ValueError):
    """Unusable input. The message is one line that says what is wrong and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


class ArgumentError(UserError):
    """An argument with an unusable value.

    The message names the argument as in Python; `renamed` names a flag or a setting in a file instead.

    Args:
        argument: the name of the argument.
        value: its value.
        problem: what is wrong, and what to do.
    """

    def __init__(self, argument: str, value: Any, problem: str):
        super().__init__(f"{argument} {_shown(value)}: {problem}")
        self.argument, self.value, self.problem = argument, value, problem

    def renamed(self, name: str) -> "ArgumentError":
        """Return the same error under the name that the user gave the argument, such as a flag."""
        return ArgumentError(name, self.value, self.problem)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def warn(message: str) -> None:
    """Print a warning to stderr, once per process."""
    print(f"warning: {message}", file=sys.stderr)


def reason(error: Exception) -> str:
    """Return the message of a library's error in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
