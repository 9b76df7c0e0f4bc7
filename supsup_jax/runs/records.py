"""The record of a run: what was measured of its tasks and evaluations, as plain data, and the metrics that follow."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

import jax
import numpy as np
import typeguard

from supsup_jax.errors import UserError, reason
from supsup_jax.evaluation import Evaluation, RecoveryPath
from supsup_jax.methods import Adapter
from supsup_jax.methods.supsup import BITS, SPARSE
from supsup_jax.metrics import Metrics, metrics, num_compared
from supsup_jax.model import Model
from supsup_jax.system import backend

Account = dict[str, int]
"""Bytes by what takes them. `SPARSE` is a different form of the masks, which is not kept as well."""


@dataclass(frozen=True)
class TaskResult:
    """One task, right after it was learned. Accuracies are fractions.

    Attributes:
        task: its number.
        finished: when, local time.
        loss: mean cross-entropy of the last epoch, in nats; nothing where it was not measured.
        accuracy: on the test set after the last epoch, the task given; no number where there was no test set.
        best: that of the best epoch.
        seconds: training time; tasks trained side by side share theirs equally.
        mask: its mask as hexadecimal bits, where the method itself keeps none; only to compare with.
        labels: what its classes are called, where it is a task of one's own.
    """

    task: int
    finished: str
    loss: float | None
    accuracy: float
    best: float
    seconds: float
    mask: str | None = None
    labels: list[Any] | None = None


@dataclass(frozen=True)
class EvaluationResult:
    """All tasks learned so far, evaluated. Accuracies are fractions, one for each task.

    An evaluation that is not finished has accuracies of the first tasks only.

    Attributes:
        num_tasks: how many tasks.
        finished: when, local time.
        seconds: how long it took.
        training_seconds: training time of these tasks.
        storage: bytes that have to be kept in order to classify images of these tasks, by what they hold.
        given: accuracy with the task given (GG).
        inferred: accuracy with the task inferred once a batch (GNu, GNs); this and all below nothing if it was not.
        inferred_per_image: accuracy with the task inferred for every single image.
        picked: fraction of batches for which the right task was inferred.
        picked_per_image: fraction of images for which the right task was inferred.
        confusion: `[true task, inferred task, batches]` wherever there are any.
        recovery: for each task how its mask was recovered from a memory, if it was.
        discovery: how well the masks that were discovered agree with the tasks, where no boundaries were told.
    """

    num_tasks: int
    finished: str
    seconds: float
    training_seconds: float
    storage: Account
    given: list[float]
    inferred: list[float] | None = None
    inferred_per_image: list[float] | None = None
    picked: list[float] | None = None
    picked_per_image: list[float] | None = None
    confusion: list[list[int]] | None = None
    recovery: list[dict[str, list[float | int]]] | None = None
    discovery: dict[str, float | int] | None = None

    @classmethod
    def begin(cls, num_tasks: int) -> "EvaluationResult":
        """The result of an evaluation of which nothing is done yet."""
        return cls(num_tasks, "", 0.0, 0.0, {}, [])

    def extend(
        self, seconds: float, measured: Evaluation, recovery: Sequence[RecoveryPath] | None = None
    ) -> "EvaluationResult":
        """The result with further tasks, which follow those that it has.

        Args:
            seconds: how long the evaluation has taken by now.
            measured: accuracies of the tasks.
            recovery: how their masks were recovered, if they were.
        """
        more: dict[str, list[Any]] = {
            name: [float(value) for value in values]
            for name, values in measured._asdict().items()
            if values is not None and name != "confusion"
        }
        if (confusion := measured.confusion) is not None:
            done = len(self.given)
            more["confusion"] = [[done + int(i), int(j), int(confusion[i, j])] for i, j in np.argwhere(confusion)]
        if recovery is not None:
            more["recovery"] = [path._asdict() for path in recovery]
        whole: dict[str, Any] = {name: [*(getattr(self, name) or []), *values] for name, values in more.items()}
        return dataclasses.replace(self, finished=now(), seconds=seconds, **whole)


@dataclass(frozen=True)
class StreamResult:
    """What a learner that is not told of tasks made of one.

    Attributes:
        task: its number.
        slots: `[slot, batches]` in the order in which they were trained; slot -1: skipped.
        saved: slots that were saved with this task.
        active: the slot trained last, if any.
        since_check: batches since the last check for a new task.
    """

    task: int
    slots: list[list[int]]
    saved: list[int]
    active: int | None
    since_check: int | None


@dataclass
class Record:
    """What is known of a run so far."""

    tasks: list[TaskResult] = field(default_factory=list)
    evaluations: list[EvaluationResult] = field(default_factory=list)
    stream: list[StreamResult] = field(default_factory=list)

    def add(self, more: "Record") -> None:
        """Adds what was measured since."""
        self.tasks += more.tasks
        self.evaluations += more.evaluations
        self.stream += more.stream

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Record":
        """From plain data.

        Raises:
            UserError: if it has another form.
        """
        return cls(
            [from_plain(TaskResult, task) for task in plain.get("tasks", [])],
            [from_plain(EvaluationResult, evaluation) for evaluation in plain.get("evaluations", [])],
            [from_plain(StreamResult, result) for result in plain.get("stream", [])],
        )


Result = TypeVar("Result", TaskResult, EvaluationResult, StreamResult)


def from_plain(kind: type[Result], plain: Any) -> Result:
    """A result from plain data.

    Raises:
        UserError: if it has another form.
    """
    try:
        result = kind(**plain)
        for name, expected in get_type_hints(kind).items():
            typeguard.check_type(getattr(result, name), expected)
    except (TypeError, typeguard.TypeCheckError) as error:
        raise UserError(
            f"what was measured of a task cannot be read ({reason(error)}); restore the run from a copy"
        ) from None
    return result


def now() -> str:
    """Date and time, local, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def metrics_of(record: Record, num_tasks: int) -> dict[str, Metrics]:
    """The metrics after so many tasks, for the task `given` and, if it was, `inferred`."""
    return {
        kind: metrics(rows, num_tasks, _when_learned(record, kind))
        for kind, rows in matrices(record).items()
        if num_tasks in rows
    }


def compared_of(record: Record, num_tasks: int) -> dict[str, int]:
    """Over how many tasks, the first ones, these metrics compare accuracies with earlier ones."""
    return {kind: num_compared(rows, num_tasks, _when_learned(record, kind)) for kind, rows in matrices(record).items()}


def _when_learned(record: Record, kind: str) -> list[float] | None:
    """The accuracy of each task right after it was learned, where that can be compared."""
    # What a memory gives back is tested on other batches than right after learning, and that alone makes a difference.
    if kind != "given" or any(task.mask for task in record.tasks):
        return None
    return [task.accuracy for task in record.tasks]


def matrices(record: Record) -> dict[str, dict[int, list[float]]]:
    """The accuracy matrices, for the task given and, if it was, inferred."""
    matrices: dict[str, dict[int, list[float]]] = {"given": {}, "inferred": {}}
    for result in sorted(record.evaluations, key=lambda result: result.num_tasks):
        for kind, rows in matrices.items():
            if (accuracies := getattr(result, kind)) is not None:
                rows[result.num_tasks] = accuracies
    return {kind: rows for kind, rows in matrices.items() if rows}


def masks_as_hex(masks: Adapter) -> list[str]:
    """The bits of masks of vectors, stacked along a leading task axis, leaf after leaf; a text for each task."""
    bits = np.concatenate([np.asarray(leaf) != 0 for leaf in jax.tree.leaves(masks)], axis=1)
    return [row.tobytes().hex() for row in np.packbits(bits, axis=1)]


def masks_from_hex(masks: list[str], like: Adapter) -> Adapter:
    """Masks of vectors, stacked along a leading task axis, from their bits.

    Args:
        masks: as `masks_as_hex` gives them.
        like: one mask.
    """
    bits = np.unpackbits(np.array([list(bytes.fromhex(mask)) for mask in masks], np.uint8), axis=1)
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([len(leaf) for leaf in leaves])
    parts = [bits[:, end - len(leaf) : end] for leaf, end in zip(leaves, ends, strict=True)]
    return structure.unflatten([part.astype(np.float32) for part in parts])


def account(model: Model) -> Account:
    """The bytes that have to be kept to classify images of all tasks of a model, by what takes them.

    Masks are counted twice: as bits, which is how they are kept here, and as the paper counts them, two bytes for each
    weight that a mask keeps. Weights that are random and never trained cost the seed that they are drawn from.
    """
    stats = jax.tree.map(lambda leaf: leaf[: model.num_tasks], model.stats)
    sizes = model.method.account(model.weights, model.bank, model.num_tasks)
    sizes |= {"batch-norm statistics": backend.num_bytes(stats)}
    return {name: size for name, size in sizes.items() if size}


def total(account: Account) -> int:
    """The bytes of all, masks as bits."""
    return sum(size for name, size in account.items() if name != SPARSE)


def total_of_paper(account: Account) -> int:
    """The bytes of all, masks as the paper counts them."""
    return sum(size for name, size in account.items() if name != BITS)
