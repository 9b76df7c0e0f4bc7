"""The interface of scenarios: what they are given to learn and evaluate tasks, and what they give back.

Scenarios know nothing of runs and files: what they need of a run is handed in as `Work`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import PyTree

from supsup_jax import evaluation
from supsup_jax.data import Benchmark, Dataset, HeldOut
from supsup_jax.errors import UserError
from supsup_jax.methods import Adapter, Carry, Method
from supsup_jax.metrics import Runs
from supsup_jax.model import Model
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.optimizers import Optimizer
from supsup_jax.scenarios.discovery import State
from supsup_jax.training import Learned


class Parts(NamedTuple):
    """An experiment's parts, bound to a data set.

    Attributes:
        net: the network, for the data set's images.
        method: the method, for this network.
        benchmark: the tasks, with their sizes.
        optimizer: of tasks that train what they own.
        weights_optimizer: of tasks that train the base weights.
        steps: updates of a task.
        protocol: how tasks are evaluated.
    """

    net: Network
    method: Method
    benchmark: Benchmark
    optimizer: Optimizer
    weights_optimizer: Optimizer
    steps: int
    protocol: evaluation.Protocol


class Report(NamedTuple):
    """Progress of a run.

    Attributes:
        tasks: tasks learned.
        of: tasks to learn.
        steps_per_second: updates a second, of all tasks of the last chunk together; 0 before the first.
        message: what was just done or is about to be done, in a few words.
        is_done: whether it was done.
    """

    tasks: int
    of: int
    steps_per_second: float
    message: str
    is_done: bool = False


Listener = Callable[[Report], None]
"""Takes reports of a run."""


def silent(report: Report) -> None:
    """A listener that shows nothing."""


class Unfinished(NamedTuple):
    """A task that is being learned, on the host.

    Attributes:
        task: its number.
        done: updates made.
        arrays: what they have changed.
        measured: what was measured meanwhile, as plain data.
    """

    task: int
    done: int
    arrays: PyTree[Any]
    measured: dict[str, Any]


@runtime_checkable
class PendingWork(Protocol):
    """Keeps what a scenario has to keep before a task is learned."""

    def save_unfinished(self, unfinished: Unfinished) -> None:
        """Saves a task that is being learned, in place of what was saved of it before."""
        ...

    def restore_unfinished(self, task: int, template: PyTree[Any]) -> Unfinished | None:
        """A task as it was saved, if it was; `template` has the shapes and types of its arrays."""
        ...

    def forget_unfinished(self) -> None:
        """Removes what was saved of a task before it was learned."""
        ...

    def note_unreadable(self, names: Sequence[str]) -> Path:
        """Adds images that cannot be read to a list, and gives the file."""
        ...


class Results(NamedTuple):
    """A chunk of tasks that were learned, their boundaries given.

    Attributes:
        learned: the tasks, stacked along a leading task axis; `weights` and `carry` are those that the last task left,
            `None` where tasks do not train the base weights, or are not learned in turn.
        seconds: training time of each task.
    """

    learned: Learned
    seconds: float


class StreamTask(NamedTuple):
    """A task of a stream, as the learner that was not told of it took it.

    Attributes:
        task: its number.
        slots: `[slot, batches]` in the order in which they were trained; slot -1: skipped.
        active: the slot trained last, if any.
        since_check: batches since the last check for a new task.
        accuracy: of the slot that most of its batches trained, a fraction.
        seconds: training time.
    """

    task: int
    slots: list[list[int]]
    active: int | None
    since_check: int | None
    accuracy: float
    seconds: float


class StreamResults(NamedTuple):
    """A chunk of tasks of a stream.

    Attributes:
        tasks: the tasks, in order.
        trained: the numbers of the slots that they trained.
        state: the learner's state after the last task.
    """

    tasks: list[StreamTask]
    trained: list[int]
    state: State


class Snapshot(NamedTuple):
    """The tasks learned so far, to be evaluated.

    Attributes:
        model: what was learned.
        runs: for each task of a stream, the slots that it trained.
        masks: the masks of tasks that their method keeps no mask of, stacked; only to compare with.
    """

    model: Model
    runs: Sequence[Runs] = ()
    masks: Adapter | None = None


class Measured(NamedTuple):
    """Some tasks, evaluated.

    Attributes:
        accuracies: of each of them.
        recovery: how the mask of each was recovered from a memory, if it was.
    """

    accuracies: evaluation.Evaluation
    recovery: list[evaluation.RecoveryPath] | None = None


def _never() -> None:
    """A run that nobody stops."""


@dataclass
class Work:
    """The tasks that a scenario has to learn, and all that it needs for them.

    Attributes:
        parts: network, method, benchmark, optimizers and protocol.
        dataset: the data set.
        tasks: describes the tasks, stacked along a leading axis.
        seed: seed of the experiment.
        first_task: the number of the first of the tasks.
        batch_size: samples of an update.
        evaluations: numbers of tasks learned after which they are evaluated, in order; the last is that of all tasks.
        num_learned: how many of the tasks are learned already.
        weights: the base weights on the devices, as the tasks so far left them; tasks that train them replace them.
        stats: the batch-norm statistics that tasks start from, on the devices.
        train: the training samples on the devices; `None` if they are loaded with their task.
        test: the test samples, as well.
        tasks_at_once: tasks to learn side by side, and between two checkpoints.
        carry: gives what the tasks so far left for the next one.
        state: gives the state of a stream's learner.
        report: called with a message, and updates a second.
        stop_if_requested: raises `KeyboardInterrupt` if an end was requested.
        pending: saves unfinished tasks.
        side_by_side: whether independent tasks are learned side by side.
        shares_batches: whether all devices share the batches of one task.
        cache_size: what the shorter sides of images on disk are resized to.
    """

    parts: Parts
    dataset: Dataset
    tasks: Any
    seed: int
    first_task: int
    batch_size: int
    evaluations: Sequence[int]
    num_learned: int
    weights: Weights
    stats: Stats
    train: Any
    test: Any
    tasks_at_once: int
    carry: Callable[[], Carry]
    state: Callable[[], State]
    pending: PendingWork
    report: Callable[..., None] = lambda message, steps_per_second=0.0, tasks=None: None
    stop_if_requested: Callable[[], None] = _never
    side_by_side: bool = True
    shares_batches: bool = False
    cache_size: int = 0

    @property
    def num_tasks(self) -> int:
        """Tasks to learn, those that are learned already included."""
        return self.evaluations[-1]

    @property
    def held_out(self) -> HeldOut:
        """The tasks with their test images."""
        return HeldOut(self.parts.benchmark, self.test, self.tasks, np.arange(self.num_tasks), self.seed)

    def chunk_end(self, first: int, until_evaluation: bool) -> int:
        """The place before which a chunk ends at the latest.

        Args:
            first: the place of its first task.
            until_evaluation: whether it ends where the next evaluation is due.
        """
        stop = min(first + self.tasks_at_once, self.num_tasks)
        return min(stop, next(count for count in self.evaluations if count > first)) if until_evaluation else stop


def divergence(parts: Parts, task: int, step: int, loss: float) -> UserError:
    """The error of a task whose training diverges.

    Args:
        parts: the experiment's parts.
        task: the task's number.
        step: the update at which it diverged, counted from 0.
        loss: its loss there.
    """
    setting, optimizer = "--learning-rate", parts.optimizer
    if parts.method.trains_weights(task):
        setting, optimizer = "--weights-learning-rate", parts.weights_optimizer
    return UserError(
        f"task {task} diverged: at step {step + 1} of {parts.steps} its loss is {loss:g}; give a smaller "
        f"{setting} than {optimizer.learning_rate:g} (nothing of this task is kept, but all of those before it)"
    )
