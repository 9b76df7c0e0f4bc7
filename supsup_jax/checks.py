"""Checks of the arguments of parts."""

from typing import Any

import numpy as np

from supsup_jax.errors import ArgumentError

# Arrays of 32 bits hold all numbers.
SMALLEST = float(np.finfo(np.float32).tiny)
LARGEST = float(np.finfo(np.float32).max)
LARGEST_COUNT = 2**31 - 1


def check_number(name: str, value: float, from_0: bool = False) -> None:
    """Checks that a number is above 0 and fits in 32 bits.

    Args:
        name: of the argument.
        value: the number.
        from_0: whether it may be 0.

    Raises:
        ArgumentError: if it is not.
    """
    if not (SMALLEST <= value <= LARGEST or (from_0 and value == 0)):
        lowest = "from 0" if from_0 else "above 0"
        raise ArgumentError(name, value, f"must be a number {lowest} that fits in 32 bits")


def check_count(name: str, value: int, lowest: int = 1) -> None:
    """Checks that a whole number is at least `lowest`, and fits in 32 bits.

    Raises:
        ArgumentError: if it does not.
    """
    if not lowest <= value <= LARGEST_COUNT:
        raise ArgumentError(name, value, f"must be from {lowest} to {LARGEST_COUNT}")


def check_counts(part: Any, *names: str) -> None:
    """Checks that these fields of a part are at least 1, as `check_count` does; `None` passes.

    Raises:
        ArgumentError: if one is not.
    """
    for name in names:
        if (value := getattr(part, name)) is not None:
            check_count(name, value)
