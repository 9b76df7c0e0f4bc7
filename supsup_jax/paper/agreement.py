"""The rule by which accuracies of runs agree with a number of the paper."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from supsup_jax.paper.published import PRECISION, SEEDS, Point

ONE_SEED = 0.1
"""Points by which a single seed may differ from a number of the paper that has no error bar."""


def tolerance(values: Sequence[float], point: Point) -> float:
    """Points by which the mean of these accuracies may differ from the paper's.

    With several seeds, or an error bar in the paper, these are two standard errors of the difference and the precision
    to which the paper's number is known. Where one of the two sides has several seeds only, that side's standard
    deviation is all that is known: one seed of ours is taken to vary as the paper's do, and a number of the paper
    without an error bar is taken as exact. `ONE_SEED` where neither side has any, or the precision where that is worse.

    Args:
        values: accuracies in %, one for each seed.
        point: the paper's.
    """
    bar, seeds = point.deviation, len(values)
    if seeds == 1 and bar is None:
        return max(ONE_SEED, PRECISION[point.source])
    deviation = stdev(values) if seeds > 1 else bar or 0.0
    error = math.sqrt(deviation**2 / seeds + (bar or 0.0) ** 2 / SEEDS)
    return 2 * error + PRECISION[point.source]


def agrees(values: Sequence[float], point: Point) -> bool:
    """Whether the mean of these accuracies, one for each seed and in %, agrees with the paper's number."""
    if point.is_limit:
        return fmean(values) < point.accuracy
    return abs(fmean(values) - point.accuracy) <= tolerance(values, point) + 1e-9
