"""The quantities that a comparison shows, read from the tables of runs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from supsup_jax.errors import UserError
from supsup_jax.runs.records import total
from supsup_jax.runs.tables import Run
from supsup_jax.system.durations import rounded
from supsup_jax.system.rows import read_rows


class Measure(NamedTuple):
    """A quantity that a comparison shows.

    Attributes:
        title: heading of its column.
        unit: "%", "points" (differences of percentages), "bytes" or "s".
        better: whether "higher" or "lower" values are better.
        meaning: its definition.
        missing: the reason why a run may lack it.
    """

    title: str
    unit: Literal["%", "points", "bytes", "s"]
    better: Literal["higher", "lower"]
    meaning: str
    missing: str


_EARLIER = "the run has no earlier accuracy of these tasks to compare with"
_NOT_INFERRED = "the run does not infer tasks (scenario GG)"

MEASURES: dict[str, Measure] = {
    "given": Measure(
        "accuracy, task given",
        "%",
        "higher",
        "Test accuracy, the mean over all tasks, if the network is told the task of an image.",
        "the run was not evaluated with the task given",
    ),
    "inferred": Measure(
        "accuracy, task inferred",
        "%",
        "higher",
        "Test accuracy, the mean over all tasks, if the task is inferred from the images by the protocol of the run.",
        _NOT_INFERRED,
    ),
    "learned": Measure(
        "accuracy right after learning",
        "%",
        "higher",
        "Test accuracy of each task right after it was learned, with the task given, the mean over all tasks.",
        "the accuracy right after learning was not measured",
    ),
    "forgetting": Measure(
        "forgetting, task given",
        "points",
        "lower",
        "Best earlier accuracy of a task minus its accuracy at the end, the mean over the tasks with an earlier "
        "measurement (Chaudhry et al., 2018).",
        _EARLIER,
    ),
    "forgetting_inferred": Measure(
        "forgetting, task inferred",
        "points",
        "lower",
        "Forgetting of the accuracy with the task inferred. It contains errors of the inference, which has more tasks "
        "to choose from at the end.",
        f"{_NOT_INFERRED}, or has no earlier evaluation",
    ),
    "backward": Measure(
        "backward transfer, task given",
        "points",
        "higher",
        "Accuracy of a task at the end minus its first measured accuracy, the mean over the same tasks (Lopez-Paz and "
        "Ranzato, 2017).",
        _EARLIER,
    ),
    "backward_inferred": Measure(
        "backward transfer, task inferred",
        "points",
        "higher",
        "Backward transfer of the accuracy with the task inferred.",
        f"{_NOT_INFERRED}, or has no earlier evaluation",
    ),
    "forward": Measure(
        "forward transfer",
        "points",
        "higher",
        "Accuracy of a task right after it was learned minus that of a separate network for this task (method "
        "UpperBound, same seed), the mean over tasks. Lopez-Paz and Ranzato (2017) test a task before it is learned; "
        "that cannot be measured, because a task without an adapter has no predictions.",
        "there is no evaluated run of method UpperBound (a separate network for each task) on this benchmark, or the "
        "accuracy right after learning was not measured",
    ),
    "bytes": Measure(
        "bytes",
        "bytes",
        "lower",
        "Storage needed to classify images of all tasks, with masks as bits and random weights as their seed.",
        "the run has no storage.csv",
    ),
    "seconds": Measure(
        "training time",
        "s",
        "lower",
        "Time to train all tasks. It depends on the machine and on other programs that ran at the time.",
        "the run has no metrics.jsonl",
    ),
}
"""All quantities by name, in the order of the columns. Accuracies are in %, transfers in percentage points."""


class Statistic(NamedTuple):
    """A quantity of the runs of one method.

    Attributes:
        mean: mean over seeds.
        deviation: sample standard deviation over seeds; `None` for a single seed.
        values: values by seed.
    """

    mean: float
    deviation: float | None
    values: dict[int, float]

    @classmethod
    def over(cls, values: Mapping[int, float | None]) -> "Statistic | None":
        """Return the statistic of values by seed; `None` unless all seeds have a value."""
        measured = {seed: value for seed, value in sorted(values.items()) if value is not None}
        if not measured or len(measured) < len(values):
            return None
        spread = stdev(measured.values()) if len(measured) > 1 else None
        return cls(fmean(measured.values()), spread, measured)

    def text(self, unit: str) -> str:
        """Format mean and standard deviation."""
        if unit == "bytes":
            shown, spread = f"{self.mean:,.0f}", f"{self.deviation or 0:,.0f}"
        elif unit == "s":
            shown, spread = rounded(self.mean), rounded(self.deviation or 0)
        else:
            shown, spread = f"{self.mean:.2f}".replace("-0.00", "0.00"), f"{self.deviation or 0:.2f}"
        return shown if self.deviation is None or (unit == "bytes" and not self.deviation) else f"{shown} ± {spread}"


def measured(run: Run, count: int) -> dict[str, float | None]:
    """Return the quantities of a run after `count` tasks by name, except for forward transfer.

    Raises:
        UserError: if its `metrics.csv` is damaged.
    """
    transfers = _transfers(run.folder / "metrics.csv")
    given, inferred = (transfers.get((count, kind), (None, None)) for kind in ("given", "inferred"))
    return {
        "given": run.accuracies["given"].get(count),
        "inferred": run.accuracies["inferred"].get(count),
        "learned": run.learned.get(count),
        "forgetting": given[0],
        "forgetting_inferred": inferred[0],
        "backward": given[1],
        "backward_inferred": inferred[1],
        "bytes": total(run.storage[count]) if count in run.storage else None,
        "seconds": run.timing.training_until(count),
    }


def forward_transfer(run: Run, count: int, references: Iterable[Run]) -> float | None:
    """Return the accuracy right after learning minus that of separate networks, in percentage points.

    Args:
        run: the run.
        count: number of tasks.
        references: runs with a separate network for each task: the one with the same seed is used, else their mean.
    """
    measured = {other.seed: other.learned[count] for other in references if count in other.learned}
    if count not in run.learned or not measured:
        return None
    return run.learned[count] - measured.get(run.seed, fmean(measured.values()))


def _transfers(path: Path) -> dict[tuple[int, str], tuple[float | None, float | None]]:
    """Return forgetting and backward transfer in percentage points, by number of tasks and kind of accuracy."""
    try:
        _, *rows = read_rows(path)
        return {(int(row[0]), row[1]): (_points(row, 3), _points(row, 4)) for row in rows}
    except FileNotFoundError:  # an old run
        return {}
    except (ValueError, IndexError):
        raise UserError(f"{path} is damaged; restore it from a copy, or give folders without this run") from None


def _points(row: list[str], column: int) -> float | None:
    """Return a cell in percentage points; `None` if it is empty."""
    return 100 * float(row[column]) if len(row) > column and row[column].strip() else None
