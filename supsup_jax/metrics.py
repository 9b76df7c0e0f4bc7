"""Metrics of continual learning, from the accuracies of tasks measured at several times."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Rows = Mapping[int, Sequence[float]]
"""The accuracy matrix: maps a number of tasks learned to the accuracy of each of them, as fractions."""


class Metrics(NamedTuple):
    """Three metrics over all tasks learned so far, as fractions.

    Attributes:
        average_accuracy: mean over tasks.
        forgetting: best earlier accuracy minus current accuracy, averaged over the tasks with an earlier measurement
            (Chaudhry et al., 2018); `None` without such tasks.
        backward_transfer: current accuracy minus the first measured one, averaged over the same tasks (Lopez-Paz and
            Ranzato, 2017); `None` without such tasks.
    """

    average_accuracy: float
    forgetting: float | None
    backward_transfer: float | None


def metrics(rows: Rows, num_tasks: int, when_learned: Sequence[float] | None = None) -> Metrics:
    """Compute the metrics after `num_tasks` tasks.

    Args:
        rows: the accuracy matrix.
        num_tasks: a key of `rows`.
        when_learned: accuracy of each task right after it was learned, if that was measured. The task learned last is
            then left out, since no task followed it.
    """
    now = np.asarray(rows[num_tasks])
    earlier = [when_learned[: num_tasks - 1]] if when_learned is not None else []
    earlier += [rows[count] for count in sorted(rows) if count < num_tasks]
    measured = max((len(row) for row in earlier), default=0)
    if not measured:
        return Metrics(float(now.mean()), None, None)
    table = np.full((len(earlier), measured), np.nan)
    for row, accuracies in zip(table, earlier, strict=True):
        row[: len(accuracies)] = accuracies
    best = np.nanmax(table, axis=0)
    first = table[np.isfinite(table).argmax(0), np.arange(measured)]
    current = now[:measured]
    return Metrics(float(now.mean()), float((best - current).mean()), float((current - first).mean()))


def num_compared(rows: Rows, num_tasks: int, when_learned: Sequence[float] | None = None) -> int:
    """Return how many tasks, from the first, forgetting and backward transfer average; for arguments see `metrics`."""
    before = [len(rows[count]) for count in rows if count < num_tasks]
    return max([0, *before, *([min(len(when_learned), num_tasks - 1)] if when_learned is not None else [])])


Runs = Sequence[Sequence[int]]
"""The masks that one task's batches trained: `(mask, batches)` in order; mask -1 means that batches were skipped."""


class Discovery(NamedTuple):
    """Agreement between the masks that a learner discovered and the tasks of its stream.

    Attributes:
        masks: number of discovered masks.
        one_mask: fraction of tasks that match one mask exactly: all their batches trained it, and no other batches did.
        purity: fraction of batches that belong to the task with the most batches of their mask.
        completeness: 1 if all batches of each task trained one mask, 0 if masks are independent of tasks (Rosenberg
            and Hirschberg, 2007).
    """

    masks: int
    one_mask: float
    purity: float
    completeness: float


def discovery_metrics(stream: Sequence[Runs]) -> Discovery:
    """Return the agreement of masks and tasks, counted in batches; skipped batches count as one more mask.

    Args:
        stream: for each task, the masks that its batches trained.
    """
    table = _batches_of(stream)
    one_mask = ((table > 0).sum(1) == 1) & ((table > 0) & ((table > 0).sum(0) == 1)).any(1) & (table[:, 0] == 0)
    return Discovery(
        masks=int((table[:, 1:].sum(0) > 0).sum()),
        one_mask=float(one_mask.mean()),
        purity=float(table.max(0).sum() / table.sum()),
        completeness=_completeness(table / table.sum()),
    )


def _completeness(joint: Float[np.ndarray, "tasks masks"]) -> float:
    """Return 1 - H(mask | task) / H(mask) of a joint distribution, or 1 if there is only one mask."""
    of_tasks, of_masks = joint.sum(1, keepdims=True), joint.sum(0)
    entropy = -np.log(of_masks, where=of_masks > 0, out=np.zeros_like(of_masks)) @ of_masks
    conditional = -(joint * np.log(joint / of_tasks, where=joint > 0, out=np.zeros_like(joint))).sum()
    return max(0.0, float(1 - conditional / entropy)) if entropy else 1.0


def usual_masks(stream: Sequence[Runs]) -> Int[np.ndarray, " tasks"]:
    """Return for each task the mask that most of its batches trained, or -1 if all were skipped."""
    trained = _batches_of(stream)[:, 1:]
    return np.where(trained.any(1), trained.argmax(1) if trained.size else 0, -1)


def _batches_of(stream: Sequence[Runs]) -> Int[np.ndarray, "tasks masks"]:
    """Count the batches of each task that trained each mask; the first column counts skipped batches."""
    most = max((mask for runs in stream for mask, _ in runs), default=-1)
    table = np.zeros((len(stream), most + 2), np.int64)
    for task, runs in enumerate(stream):
        for mask, batches in runs:
            table[task, mask + 1] += batches
    return table


def standard_error(
    right: Bool[np.ndarray, "tasks images"],
    is_used: Bool[np.ndarray, "tasks images"],
    images_per_pick: int,
    total: Int[np.ndarray, " tasks"],
) -> Float[np.ndarray, " tasks"]:
    """Return the standard error of each task's accuracy over a random sample of picks.

    Images of one pick are right or wrong together, so picks are sampled units, and the accuracy is the ratio of two
    means (Cochran, Sampling Techniques, Section 6). It is 0 if the sample is complete.

    Args:
        right: which images are classified correctly.
        is_used: which images belong to the sample; at least one of each task.
        images_per_pick: number of consecutive images that share a pick.
        total: the number of picks from which the sample was drawn.
    """
    starts = np.arange(0, right.shape[1], images_per_pick)
    hits, images = (np.add.reduceat(part, starts, axis=1, dtype=float) for part in (right & is_used, is_used))
    picks, all_images = (images > 0).sum(1), images.sum(1)
    residuals = hits - hits.sum(1, keepdims=True) / all_images[:, None] * images
    variance = (residuals**2).sum(1) * picks / np.maximum(picks - 1, 1) / all_images**2
    return np.sqrt((1 - picks / total) * variance)
