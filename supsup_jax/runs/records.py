"""Record of a run: measurements of its tasks and evaluations as plain data, and metrics computed from them."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar, get_type_hints

import jax
import numpy as np
import typeguard

from supsup_jax.errors import UserError, reason
from supsup_jax.evaluation import Evaluation
from supsup_jax.methods import Adapter
from supsup_jax.methods.base import SEED
from supsup_jax.methods.supsup import BITS, SPARSE
from supsup_jax.methods.wsn import HUFFMAN
from supsup_jax.metrics import Metrics, metrics, num_compared
from supsup_jax.model import Model
from supsup_jax.recovery_evaluation import RecoveryPath
from supsup_jax.system import backend

CHECKS = ("checked", "differing")
"""Fields of an evaluation whose search is approximate: checked picks, and picks that differ from the exact search."""

ERRORS = ("inferred_error", "inferred_per_image_error")
"""Standard errors of an evaluation of a sample of the test picks."""

Account = dict[str, int]
"""Storage in bytes, by content. The masks are counted in two forms; `SPARSE` is only for comparison with the paper."""


@dataclass(frozen=True)
class TaskResult:
    """Measurements of one task right after training. Accuracies are fractions.

    Attributes:
        task: task number.
        finished: local date and time.
        loss: mean cross-entropy over the last epoch, in nats; `None` if it was not measured.
        accuracy: test accuracy after the last epoch, with the task given; NaN if there is no test set.
        best: test accuracy after the best epoch.
        seconds: training time; tasks trained side by side share it equally.
        mask: true mask as hexadecimal bits, for methods that do not store masks; used only to measure recovery.
        labels: class labels, if the task is user-supplied.
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
    """Evaluation of all tasks learned so far. Accuracies are fractions, one per task.

    An unfinished evaluation has accuracies of the first tasks only.

    Attributes:
        num_tasks: number of tasks.
        finished: local date and time.
        seconds: duration of the evaluation.
        training_seconds: training time of these tasks.
        storage: bytes needed to classify images of these tasks, by content.
        given: accuracy with the task given (GG).
        inferred: accuracy with the task inferred once per batch (GNu, GNs); `None`, like all following fields, if the
            task was not inferred.
        inferred_per_image: accuracy with the task inferred for each image alone.
        picked: fraction of batches whose task was inferred correctly.
        picked_per_image: fraction of images whose task was inferred correctly.
        confusion: `[task, inferred task, batches]` for all pairs with at least one batch.
        recovery: for each task, how its mask was recovered from a memory; `None` for methods without a memory.
        checked: for each task, the number of batches whose task an exact search inferred as well; `None` if the search
            of the experiment is exact.
        differing: the number of these batches for which the two searches differ.
        sampled: for each task, the fraction of batches whose task was inferred; `None` if it was for all.
        inferred_error: standard error of `inferred` if only a sample was evaluated.
        inferred_per_image_error: standard error of `inferred_per_image` if only a sample was evaluated.
        discovery: how well the discovered masks match the tasks; `None` if task boundaries were given.
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
    checked: list[float] | None = None
    differing: list[float] | None = None
    sampled: list[float] | None = None
    inferred_error: list[float] | None = None
    inferred_per_image_error: list[float] | None = None

    @classmethod
    def begin(cls, num_tasks: int) -> "EvaluationResult":
        """Return an empty result."""
        return cls(num_tasks, "", 0.0, 0.0, {}, [])

    def extend(
        self, seconds: float, measured: Evaluation, recovery: Sequence[RecoveryPath] | None = None
    ) -> "EvaluationResult":
        """Return this result extended by the next tasks.

        Args:
            seconds: duration of the evaluation so far.
            measured: accuracies of the next tasks.
            recovery: how their masks were recovered; `None` for methods without a memory.
        """
        added: dict[str, list[Any]] = {
            name: [float(value) for value in values]
            for name, values in measured._asdict().items()
            if values is not None and name != "confusion"
        }
        if (confusion := measured.confusion) is not None:
            done = len(self.given)
            added["confusion"] = [[done + int(i), int(j), int(confusion[i, j])] for i, j in np.argwhere(confusion)]
        if recovery is not None:
            added["recovery"] = [path._asdict() for path in recovery]
        extended: dict[str, Any] = {name: [*(getattr(self, name) or []), *values] for name, values in added.items()}
        return dataclasses.replace(self, finished=now(), seconds=seconds, **extended)


@dataclass(frozen=True)
class StreamResult:
    """Training of the learner of a stream on one task, which the learner is not given.

    Attributes:
        task: task number.
        slots: `[slot, batches]` in training order; slot -1 means that the batches were skipped.
        saved: slots saved with this task.
        active: the slot trained last; `None` if there is none.
        since_check: batches since the last check for a new task.
    """

    task: int
    slots: list[list[int]]
    saved: list[int]
    active: int | None
    since_check: int | None


@dataclass
class Record:
    """All measurements of a run so far."""

    tasks: list[TaskResult] = field(default_factory=list)
    evaluations: list[EvaluationResult] = field(default_factory=list)
    stream: list[StreamResult] = field(default_factory=list)

    def add(self, more: "Record") -> None:
        """Add later measurements."""
        self.tasks += more.tasks
        self.evaluations += more.evaluations
        self.stream += more.stream

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data, without checks and samples if there are none, as in earlier versions."""
        plain = dataclasses.asdict(self)
        for evaluation in plain["evaluations"]:
            for name in (*CHECKS, "sampled", *ERRORS):
                if evaluation[name] is None:
                    del evaluation[name]
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Record":
        """Return a record from plain data.

        Raises:
            UserError: if the data have a different form.
        """
        return cls(
            [from_plain(TaskResult, task) for task in plain.get("tasks", [])],
            [from_plain(EvaluationResult, evaluation) for evaluation in plain.get("evaluations", [])],
            [from_plain(StreamResult, result) for result in plain.get("stream", [])],
        )


Result = TypeVar("Result", TaskResult, EvaluationResult, StreamResult)


def from_plain(kind: type[Result], plain: Any) -> Result:
    """Return a result from plain data.

    Raises:
        UserError: if the data have a different form.
    """
    try:
        result = kind(**plain)
        for name, expected in _type_hints(kind).items():
            typeguard.check_type(getattr(result, name), expected)
    except (TypeError, typeguard.TypeCheckError) as error:
        raise UserError(
            f"the record of a task or an evaluation cannot be read ({reason(error)}); restore the run from a copy"
        ) from None
    return result


_type_hints = cache(get_type_hints)  # it evaluates all annotations, for each of thousands of tasks


def now() -> str:
    """Return the local date and time, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def metrics_of(record: Record, num_tasks: int) -> dict[str, Metrics]:
    """Return the metrics after `num_tasks` tasks, for the task `given` and, if available, `inferred`."""
    return {
        kind: metrics(rows, num_tasks, _when_learned(record, kind))
        for kind, rows in matrices(record).items()
        if num_tasks in rows
    }


def compared_of(record: Record, num_tasks: int) -> dict[str, int]:
    """Return the number of tasks for which these metrics compare the accuracy with an earlier one."""
    return {kind: num_compared(rows, num_tasks, _when_learned(record, kind)) for kind, rows in matrices(record).items()}


def _when_learned(record: Record, kind: str) -> list[float] | None:
    """Return the accuracy of each task right after training; `None` if it cannot be compared with later ones."""
    # With a memory, evaluations use different batches than training does, which alone changes the accuracy.
    if kind != "given" or any(task.mask for task in record.tasks):
        return None
    return [task.accuracy for task in record.tasks]


def matrices(record: Record) -> dict[str, dict[int, list[float]]]:
    """Return the accuracy matrices for the task `given` and, if available, `inferred`."""
    matrices: dict[str, dict[int, list[float]]] = {"given": {}, "inferred": {}}
    for result in sorted(record.evaluations, key=lambda result: result.num_tasks):
        for kind, rows in matrices.items():
            if (accuracies := getattr(result, kind)) is not None:
                rows[result.num_tasks] = accuracies
    return {kind: rows for kind, rows in matrices.items() if rows}


def masks_as_hex(masks: Adapter) -> list[str]:
    """Return the bits of masks that are vectors, as one hexadecimal string per task.

    Args:
        masks: the masks, stacked along a leading task axis.
    """
    bits = np.concatenate([np.asarray(leaf) != 0 for leaf in jax.tree.leaves(masks)], axis=1)
    return [row.tobytes().hex() for row in np.packbits(bits, axis=1)]


def masks_from_hex(masks: list[str], like: Adapter) -> Adapter:
    """Return masks that are vectors, stacked along a leading task axis.

    Args:
        masks: strings returned by `masks_as_hex`.
        like: a mask with the same structure.
    """
    bits = np.unpackbits(np.array([list(bytes.fromhex(mask)) for mask in masks], np.uint8), axis=1)
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([len(leaf) for leaf in leaves])
    parts = [bits[:, end - len(leaf) : end] for leaf, end in zip(leaves, ends, strict=True)]
    return structure.unflatten([part.astype(np.float32) for part in parts])


def check_of(
    checked: Sequence[float] | np.ndarray | None, differing: Sequence[float] | np.ndarray | None
) -> str | None:
    """Return how many picks of an approximate search differ from the exact one, in words; `None` if it is exact.

    Args:
        checked: for each task, the number of picks that an exact search made as well.
        differing: for each task, how many of these differ.
    """
    return None if checked is None or differing is None else f"{sum(differing):,.0f} of {sum(checked):,.0f}"


def error_of_mean(errors: Sequence[float]) -> float:
    """Return the standard error of the mean over tasks, given that of each task."""
    return float(np.linalg.norm(errors) / len(errors))


def sample_in_words(sampled: Sequence[float] | np.ndarray | None) -> str | None:
    """Return which share of the test picks was made, given that of each task; `None` if all were."""
    return None if sampled is None else f"sample of {100 * float(np.mean(sampled)):.3g} % of the test picks"


def account(model: Model, has_given_weights: bool = False) -> Account:
    """Return the bytes needed to classify images of all tasks of a model, by content.

    Masks are counted in two forms: as bits, which is how this library stores them, and as in the paper, with two bytes
    per weight that a mask keeps. Random weights that are never trained count as the seed that they are drawn from.

    Args:
        model: the model.
        has_given_weights: whether its base weights are not drawn from a seed.
    """
    stats = jax.tree.map(lambda leaf: leaf[: model.num_tasks], model.stats)
    sizes = model.method.account(model.weights, model.bank, model.num_tasks)
    if has_given_weights and sizes.pop(SEED, 0):
        sizes = {"given weights": backend.num_bytes(model.method.shared(model.weights))} | sizes
    sizes |= {"batch-norm statistics": backend.num_bytes(stats)}
    return {name: size for name, size in sizes.items() if size}


def total(account: Account) -> int:
    """Return the total number of bytes, with masks as bits."""
    return sum(size for name, size in account.items() if name not in (SPARSE, HUFFMAN))


def total_of_paper(account: Account) -> int:
    """Return the total number of bytes, with masks as the paper counts them."""
    return sum(size for name, size in account.items() if name not in (BITS, HUFFMAN))
