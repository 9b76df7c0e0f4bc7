"""Range checks for the arguments of parts."""

from typing import Any

import numpy as np

from supsup_jax.errors import ArgumentError

# Numbers must fit in 32-bit arrays.
SMALLEST = float(np.finfo(np.float32).tiny)
LARGEST = float(np.finfo(np.float32).max)
LARGEST_COUNT = 2**31 - 1


def check_number(name: str, value: float, allow_zero: bool = False) -> None:
    """Check that a number is positive and fits in 32 bits.

    Args:
        name: the name of the argument.
        value: the number.
        allow_zero: whether 0 is allowed too.

    Raises:
        ArgumentError: if the number is out of range.
    """
    if not (SMALLEST <= value <= LARGEST or (allow_zero and value == 0)):
        sign = "non-negative" if allow_zero else "positive"
        raise ArgumentError(name, value, f"must be a {sign} number that fits in 32 bits")


def check_count(name: str, value: int, lowest: int = 1) -> None:
    """Check that an integer is at least `lowest` and fits in 32 bits.

    Raises:
        ArgumentError: if the integer is out of range.
    """
    if not lowest <= value <= LARGEST_COUNT:
        raise ArgumentError(name, value, f"must be from {lowest} to {LARGEST_COUNT}")


def check_counts(part: Any, *names: str) -> None:
    """Check that the given fields of a part are at least 1, as `check_count` does; `None` passes.

    Raises:
        ArgumentError: if a field is out of range.
    """
    for name in names:
        if (value := getattr(part, name)) is not None:
            check_count(name, value)
