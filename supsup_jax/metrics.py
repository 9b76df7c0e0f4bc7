"""What continual learning reports, from the accuracies of tasks at several times."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Rows = Mapping[int, Sequence[float]]
"""The accuracy matrix: by the number of tasks learned, the accuracy of each of them, a fraction."""


class Metrics(NamedTuple):
    """All tasks learned so far in three numbers; fractions.

    Attributes:
        average_accuracy: mean over tasks.
        forgetting: mean, over the tasks that were measured before, of the best accuracy until then minus that of now
            (Chaudhry et al., 2018); nothing if there are none.
        backward_transfer: mean, over the same tasks, of the accuracy of now minus the first one measured (Lopez-Paz
            and Ranzato, 2017); nothing if there are none.
    """

    average_accuracy: float
    forgetting: float | None
    backward_transfer: float | None


def metrics(rows: Rows, num_tasks: int, when_learned: Sequence[float] | None = None) -> Metrics:
    """The metrics after so many tasks.

    Args:
        rows: the accuracy matrix.
        num_tasks: one of its rows.
        when_learned: accuracy of each task right after it was learned, where that was measured. The task learned last
            is left out then: nothing came after it.
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
    now_of_them = now[:measured]
    return Metrics(float(now.mean()), float((best - now_of_them).mean()), float((now_of_them - first).mean()))


def num_compared(rows: Rows, num_tasks: int, when_learned: Sequence[float] | None = None) -> int:
    """Over how many tasks, the first ones, forgetting and backward transfer are means; arguments as for `metrics`."""
    before = [len(rows[count]) for count in rows if count < num_tasks]
    return max([0, *before, *([min(len(when_learned), num_tasks - 1)] if when_learned is not None else [])])


Runs = Sequence[Sequence[int]]
"""The masks that one task's batches trained: `(mask, batches)` in order, mask -1 where they were skipped."""


class Discovery(NamedTuple):
    """How well the masks that a learner discovered agree with the tasks of its stream.

    Attributes:
        masks: how many were discovered.
        one_mask: fraction of tasks that are exactly one mask: all their batches trained it, and no other's did.
        purity: fraction of batches that belong to the task that trained their mask most.
        completeness: 1 where all batches of a task trained one mask, 0 where masks say nothing of tasks (Rosenberg and
            Hirschberg, 2007).
    """

    masks: int
    one_mask: float
    purity: float
    completeness: float


def discovery_metrics(stream: Sequence[Runs]) -> Discovery:
    """The agreement of masks and tasks, counted in batches; skipped ones count as one more mask.

    Args:
        stream: for each task the masks that its batches trained.
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
    """1 - H(mask | task) / H(mask) of a joint distribution; 1 where there is one mask."""
    of_tasks, of_masks = joint.sum(1, keepdims=True), joint.sum(0)
    entropy = -np.log(of_masks, where=of_masks > 0, out=np.zeros_like(of_masks)) @ of_masks
    conditional = -(joint * np.log(joint / of_tasks, where=joint > 0, out=np.zeros_like(joint))).sum()
    return max(0.0, float(1 - conditional / entropy)) if entropy else 1.0


def usual_masks(stream: Sequence[Runs]) -> Int[np.ndarray, " tasks"]:
    """For each task the mask that most of its batches trained; -1 if all were skipped."""
    trained = _batches_of(stream)[:, 1:]
    return np.where(trained.any(1), trained.argmax(1) if trained.size else 0, -1)


def _batches_of(stream: Sequence[Runs]) -> Int[np.ndarray, "tasks masks"]:
    """How many batches of each task trained each mask; the first column holds those skipped."""
    most = max((mask for runs in stream for mask, _ in runs), default=-1)
    table = np.zeros((len(stream), most + 2), np.int64)
    for task, runs in enumerate(stream):
        for mask, batches in runs:
            table[task, mask + 1] += batches
    return table
