"""The criterion for agreement between accuracies of runs and a number of the paper."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from supsup_jax.paper.published import PRECISION, SEEDS, Point

ONE_SEED = 0.1
"""Tolerance in percentage points for a single seed and a number without an error bar."""


def tolerance(values: Sequence[float], point: Point) -> float:
    """Return by how many percentage points the mean of these accuracies may differ from the paper's number.

    With several seeds, or an error bar in the paper, this is two standard errors of the difference plus the precision
    of the paper's number. If we have only one seed, it is assumed to vary like the paper's seeds. If the paper has no
    error bar, its number is assumed to be exact. With one seed and no error bar, the tolerance is the larger of
    `ONE_SEED` and the precision.

    Args:
        values: accuracies in %, one for each seed.
        point: the paper's number.
    """
    bar, seeds = point.deviation, len(values)
    if seeds == 1 and bar is None:
        return max(ONE_SEED, PRECISION[point.source])
    deviation = stdev(values) if seeds > 1 else bar or 0.0
    error = math.sqrt(deviation**2 / seeds + (bar or 0.0) ** 2 / SEEDS)
    return 2 * error + PRECISION[point.source]


def agrees(values: Sequence[float], point: Point) -> bool:
    """Return whether the mean of these accuracies, in % and one for each seed, agrees with the paper's number."""
    if point.is_limit:
        return fmean(values) < point.accuracy
    return abs(fmean(values) - point.accuracy) <= tolerance(values, point) + 1e-9
