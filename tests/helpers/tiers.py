"""Test parameters by the tiers that `pyproject.toml` defines."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def thorough_but(quick: Collection[Any], values: Iterable[Any], long: Collection[Any] = ()) -> list[Any]:
    """Return parameters of the thorough tier, except for a few that belong to the default tier.

    Args:
        quick: values for the default tier.
        values: all values, in order; a tuple holds the values of several parameters.
        long: values for the tier `long`.
    """
    values = list(values)
    assert all(value in values for value in (*quick, *long))

    def parameter(value: Any) -> Any:
        parts = value if isinstance(value, tuple) else (value,)
        tier = pytest.mark.long if value in long else pytest.mark.thorough
        return pytest.param(*parts, marks=() if value in quick else tier)

    return [parameter(value) for value in values]
