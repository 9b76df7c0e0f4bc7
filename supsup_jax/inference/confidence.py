"""Confidence of inferred tasks: how often it is right, and whether images belong to any of the tasks.

All functions take the scores of a search, which are small for the right task: one row for each pick, an image or
several images of one task. The confidence of a pick is the softmax of the negative scores divided by a temperature, at
the inferred task. Derivatives of an objective have an arbitrary scale, so without a fitted temperature the confidence
is not a probability.

Arrays are NumPy's, computed in float64: confidences of easy tasks differ from 1 by less than float32 resolves.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, logsumexp

from supsup_jax.arguments import array
from supsup_jax.errors import ArgumentError, UserError

NUM_BINS = 15
"""Number of bins of a reliability curve, as usual since Guo et al. (2017)."""


class Reliability(NamedTuple):
    """Reliability curve: how often picks of a confidence are right. Bins have equal widths from 0 to 1.

    Attributes:
        confidence: `(bins,)`, mean confidence of the picks in each bin; NaN for an empty bin.
        accuracy: `(bins,)`, fraction of right picks in each bin; NaN for an empty bin.
        count: `(bins,)`, number of picks in each bin.
    """

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean over picks of abs(confidence - accuracy) of their bin (Guo et al.)."""
        filled = self.count > 0
        gaps = np.abs(self.confidence[filled] - self.accuracy[filled])
        return float((gaps * self.count[filled]).sum() / self.count.sum())


def confidence(
    scores: Float[np.ndarray, "picks tasks"] | Any,
    tasks: Int[np.ndarray, " picks"] | Any = None,
    temperature: float | int = 1.0,
) -> Float[np.ndarray, " picks"]:
    """Return the confidence of each pick, from 0 to 1.

    Args:
        scores: scores, small for the right task.
        tasks: inferred tasks; by default the ones with the smallest score.
        temperature: positive number by which the scores are divided.

    Raises:
        UserError: if the arrays do not fit together, or the temperature is not positive.
    """
    return expit(-_log_odds(scores, tasks, temperature))


def novelty(
    scores: Float[np.ndarray, "picks tasks"] | Any,
    tasks: Int[np.ndarray, " picks"] | Any = None,
    temperature: float | int = 1.0,
    comparable: bool = False,
) -> Float[np.ndarray, " picks"]:
    """Return how little each pick looks like the learned tasks: large for images that belong to none of them.

    Derivatives can be compared only between the tasks of one pick. Their novelty is the log-odds that the inferred task
    is wrong, log(1 / confidence - 1), which does not saturate as the confidence does. Values of an objective can also
    be compared between picks. Their novelty is the score of the inferred task: the uncertainty that remains with the
    best task.

    Args:
        scores: see `confidence`; of at least two tasks.
        tasks: see `confidence`.
        temperature: see `confidence`.
        comparable: whether scores of different picks can be compared; see `Search.scores_are_values`.

    Raises:
        UserError: see `confidence`.
    """
    if not comparable:
        return _log_odds(scores, tasks, temperature)
    scores = _scores(scores)
    return scores.min(1) if tasks is None else scores[np.arange(len(scores)), _tasks(tasks, scores)]


def reliability(
    confidences: Float[np.ndarray, " picks"] | Any, right: Bool[np.ndarray, " picks"] | Any, bins: int = NUM_BINS
) -> Reliability:
    """Return the reliability curve of picks.

    Args:
        confidences: confidence of each pick, from 0 to 1.
        right: whether each pick is right.
        bins: number of bins, which have equal widths.

    Raises:
        UserError: if the arrays do not fit together, or there are no picks.
    """
    confidences, right = array("confidences", confidences).astype(float), array("right", right).astype(float)
    if confidences.shape != right.shape or confidences.ndim != 1 or not len(right):
        raise UserError(
            f"confidences have shape {confidences.shape}, right has shape {right.shape}; give one of each for each pick"
        )
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise UserError(f"confidences reach from {confidences.min():g} to {confidences.max():g}; give values in [0, 1]")
    places = np.minimum((confidences * bins).astype(int), bins - 1)
    count = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean, accuracy = (np.bincount(places, values, bins) / count for values in (confidences, right))
    return Reliability(mean, accuracy, count)


def fit_temperature(scores: Float[np.ndarray, "picks tasks"] | Any, tasks: Int[np.ndarray, " picks"] | Any) -> float:
    """Return the temperature for which the confidence of picks of known tasks is most likely (Guo et al., 2017).

    It minimises the cross-entropy. Each target is smoothed: with probability 1 / (picks + 2) the task is any other
    one, as in Platt's method. Without that, picks that are all right would give the temperature 0.

    Args:
        scores: see `confidence`; of at least two tasks.
        tasks: the right task of each pick.

    Raises:
        UserError: if the arrays do not fit together, or there are fewer than two tasks.
    """
    scores = _scores(scores)
    tasks, (picks, num_tasks) = _tasks(tasks, scores), scores.shape
    if num_tasks < 2:
        raise UserError(f"scores have {num_tasks} tasks; a temperature needs at least 2")
    wrong = 1 / (picks + 2)
    targets = np.full(scores.shape, wrong / (num_tasks - 1))
    targets[np.arange(picks), tasks] = 1 - wrong
    spread = float(np.ptp(scores, axis=1).mean())
    if not spread:
        return 1.0
    logits = -(scores - scores.min(1, keepdims=True)) / spread
    expected = (targets * logits).sum(1)

    def slope(log_inverse: float) -> float:
        """Return the derivative of the cross-entropy by the inverse temperature, in which it is convex."""
        scaled = np.exp(log_inverse) * logits
        shares = np.exp(scaled - logsumexp(scaled, axis=1, keepdims=True))
        return float(((shares * logits).sum(1) - expected).mean())

    from scipy import optimize  # not at the top: it takes longer to import than everything else here

    low, high = np.log(1e-6), np.log(1e6)
    if slope(low) >= 0:
        best = low
    elif slope(high) <= 0:
        best = high
    else:
        best = optimize.root_scalar(slope, bracket=(low, high)).root
    return spread * float(np.exp(-best))


def auroc(known: Float[np.ndarray, " known"] | Any, unknown: Float[np.ndarray, " unknown"] | Any) -> float:
    """Return the probability that an image of no learned task has a larger novelty than one of a learned task.

    This is the area under the ROC curve: 1 if the novelties separate them, 0.5 if they have equal distributions. Equal
    values count as one half.

    Args:
        known: novelties of picks of learned tasks.
        unknown: novelties of picks of other tasks.

    Raises:
        UserError: if one of the arrays is empty, or not a list of numbers.
    """
    known, unknown = _numbers("known", known), _numbers("unknown", unknown)
    ordered = np.sort(known)
    below, not_above = (np.searchsorted(ordered, unknown, side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / 2 / len(known))


def is_rejected(
    novelties: Float[np.ndarray, " picks"] | Any, reference: Float[np.ndarray, " known"] | Any, reject: float
) -> Bool[np.ndarray, " picks"]:
    """Return which picks are rejected because too few known ones have such a novelty.

    A pick is rejected if, among the reference and itself, at most the fraction `reject` has its novelty or a larger
    one. If it belongs to the learned tasks as the reference does, this happens with at most this probability, for any
    distribution (a conformal test).

    Args:
        novelties: novelties of the picks.
        reference: novelties of picks of learned tasks, which were not trained on.
        reject: fraction of known picks that may be rejected, above 0 and below 1.

    Raises:
        UserError: if `reject` is out of range, or the reference is too small for it.
    """
    check_reject(reject)
    novelties, ordered = _numbers("novelties", novelties), np.sort(_numbers("reference", reference))
    smallest = int(np.ceil(1 / reject - 1e-9)) - 1
    if len(ordered) < smallest:
        problem = f"needs a calibration with at least {smallest} images; there are {len(ordered)}"
        raise ArgumentError("reject", reject, problem)
    as_large = len(ordered) - np.searchsorted(ordered, novelties, side="left")
    return (1 + as_large) / (len(ordered) + 1) <= reject + 1e-12


def check_reject(reject: float) -> None:
    """Check the fraction of known picks that may be rejected.

    Raises:
        ArgumentError: if it is not between 0 and 1.
    """
    if not 0 < reject < 1:
        raise ArgumentError("reject", reject, "must be a fraction above 0 and below 1, such as 0.05")


def _log_odds(given: Any, tasks: Any, temperature: float | int) -> np.ndarray:
    """Return the log-odds that the inferred tasks are wrong; for the arguments, see `confidence`."""
    scaled = -_scores(given) / _positive(temperature)
    picked = scaled.argmax(1) if tasks is None else _tasks(tasks, scaled)
    is_picked = picked[:, None] == np.arange(scaled.shape[1])
    others: Any = logsumexp(np.where(is_picked, -np.inf, scaled), axis=1)
    return others - scaled[is_picked]


def _scores(given: Any) -> np.ndarray:
    scores = array("scores", given).astype(float)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise UserError(f"scores have shape {scores.shape}; give finite numbers, one row for each pick")
    return scores


def _tasks(given: Any, scores: np.ndarray) -> np.ndarray:
    tasks = array("tasks", given)
    if tasks.shape != scores.shape[:1] or not np.issubdtype(tasks.dtype, np.integer):
        raise UserError(f"tasks have shape {tasks.shape} and type {tasks.dtype}; give an integer for each pick")
    if not ((tasks >= 0) & (tasks < scores.shape[1])).all():
        raise UserError(f"tasks reach from {tasks.min()} to {tasks.max()}; there are tasks 0 to {scores.shape[1] - 1}")
    return tasks


def _numbers(name: str, given: Any) -> np.ndarray:
    values = array(name, given).astype(float)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise UserError(f"{name} has shape {values.shape}; give one number for each pick, at least one")
    return values


def _positive(temperature: float | int) -> float | int:
    if not 0 < temperature < np.inf:
        raise ArgumentError("temperature", temperature, "must be a positive number")
    return temperature
