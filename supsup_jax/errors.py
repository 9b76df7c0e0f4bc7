"""Errors that the user has to act on, and warnings."""

import sys
from functools import cache
from typing import Any


class UserError(ValueError):
    """Input that cannot be used: the message is one line that says what is wrong and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class ArgumentError(UserError):
    """An argument with a value that cannot be used.

    The message names the argument as Python code does; `renamed` names a flag or a setting in a file instead.

    Args:
        argument: its name.
        value: its value.
        problem: what is wrong, and what to do.
    """

    def __init__(self, argument: str, value: Any, problem: str):
        super().__init__(f"{argument} {_shown(value)}: {problem}")
        self.argument, self.value, self.problem = argument, value, problem

    def renamed(self, name: str) -> "ArgumentError":
        """The same error of an argument that is called `name` where the user gave it."""
        return ArgumentError(name, self.value, self.problem)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def warn(message: str) -> None:
    """Prints a warning to stderr, once."""
    print(f"warning: {message}", file=sys.stderr)


def reason(error: Exception) -> str:
    """The message of a library's error, as a part of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
