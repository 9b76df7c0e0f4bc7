"""Interface between scenarios and runs: what a scenario gets to learn and evaluate tasks, and what it returns.

Scenarios do not use runs or files. They get everything that they need of a run as `Work`.
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
from supsup_jax.methods import Adapter, Carry, Method, Phase
from supsup_jax.metrics import Runs
from supsup_jax.model import Model
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.optimizers import Optimizer
from supsup_jax.recovery_evaluation import RecoveryPath
from supsup_jax.scenarios.discovery import State
from supsup_jax.training import Learned


class Parts(NamedTuple):
    """Parts of an experiment, bound to a data set.

    Attributes:
        net: the network, built for the images of the data set.
        method: the method, prepared for this network.
        benchmark: the tasks, with their sizes.
        optimizer: optimizer of tasks that train scores, vectors or a head.
        weights_optimizer: optimizer of tasks that train the base weights.
        steps: training steps per task.
        protocol: how tasks are evaluated.
    """

    net: Network
    method: Method
    benchmark: Benchmark
    optimizer: Optimizer
    weights_optimizer: Optimizer
    steps: int
    protocol: evaluation.Protocol

    def optimizer_of(self, phase: Phase) -> Optimizer:
        """Return the optimizer of a phase of a task's training."""
        return self.weights_optimizer if phase.trains_weights else self.optimizer


class Report(NamedTuple):
    """Progress of a run.

    Attributes:
        tasks: number of tasks learned.
        of: number of tasks to learn.
        steps_per_second: training speed of the last chunk, summed over its tasks; 0 before the first chunk.
        message: what is about to be done, or was just done.
        is_done: whether `message` describes something finished.
    """

    tasks: int
    of: int
    steps_per_second: float
    message: str
    is_done: bool = False


Listener = Callable[[Report], None]
"""Function that receives the reports of a run."""


def silent(report: Report) -> None:
    """Ignore a report."""


class Unfinished(NamedTuple):
    """State of a partly learned task, on the host.

    Attributes:
        task: task number.
        done: steps done.
        arrays: everything that training has changed.
        measured: measurements so far, as plain data.
    """

    task: int
    done: int
    arrays: PyTree[Any]
    measured: dict[str, Any]


@runtime_checkable
class PendingWork(Protocol):
    """Storage for a task that is not learned completely."""

    def save_unfinished(self, unfinished: Unfinished) -> None:
        """Save a partly learned task in place of its previous state."""
        ...

    def restore_unfinished(self, task: int, template: PyTree[Any]) -> Unfinished | None:
        """Return the saved state of a task, or `None`; `template` has the shapes and dtypes of its arrays."""
        ...

    def forget_unfinished(self) -> None:
        """Delete the saved state of a partly learned task."""
        ...

    def note_unreadable(self, names: Sequence[str]) -> Path:
        """Add the names of unreadable images to a list on disk, and return the path of that list."""
        ...


class Results(NamedTuple):
    """A chunk of learned tasks whose boundaries were given.

    Attributes:
        learned: the tasks, stacked along a leading task axis. `weights` and `carry` are the values after the last task;
            `None` if tasks do not train the base weights, or are not learned in turn.
        seconds: training time per task.
    """

    learned: Learned
    seconds: float


class StreamTask(NamedTuple):
    """Training of the learner of a stream on one task, which the learner is not given.

    Attributes:
        task: task number.
        slots: `[slot, batches]` in training order; slot -1 means that the batches were skipped.
        active: the slot trained last; `None` if there is none.
        since_check: batches since the last check for a new task.
        accuracy: accuracy with the slot that most batches of the task trained, as a fraction.
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
        trained: numbers of the slots that these tasks trained.
        state: state of the learner after the last task.
    """

    tasks: list[StreamTask]
    trained: list[int]
    state: State


class Snapshot(NamedTuple):
    """The learned tasks, as an evaluation uses them.

    Attributes:
        model: the model.
        runs: for each task of a stream, the slots that it trained.
        masks: true masks, stacked, for methods that do not store masks; used only to measure how well they are
            recovered.
    """

    model: Model
    runs: Sequence[Runs] = ()
    masks: Adapter | None = None


class Measured(NamedTuple):
    """Evaluation of some tasks.

    Attributes:
        accuracies: accuracies of the tasks.
        recovery: for each task, how its mask was recovered from the memory; `None` for methods without a memory.
    """

    accuracies: evaluation.Evaluation
    recovery: list[RecoveryPath] | None = None


def _never() -> None:
    """Do nothing: the default of `Work.stop_if_requested`."""


@dataclass
class Work:
    """Tasks for a scenario to learn, with everything that this takes.

    Attributes:
        parts: network, method, benchmark, optimizers and protocol.
        dataset: the data set.
        tasks: descriptions of the tasks, stacked along a leading axis.
        seed: seed of the experiment.
        first_task: number of the first task.
        batch_size: images per step.
        evaluations: numbers of learned tasks at which an evaluation is due, in ascending order; the last one is the
            number of all tasks.
        num_learned: number of tasks learned so far.
        weights: current base weights, on the devices; updated by tasks that train them.
        stats: initial batch-norm statistics of a task, on the devices.
        train: training samples, on the devices; `None` if they are loaded task by task.
        test: test samples, on the devices; `None` if they are loaded task by task.
        tasks_at_once: number of tasks to learn side by side, and between two checkpoints.
        carry: returns the carry for the next task.
        state: returns the state of the learner of a stream.
        report: called with a message and the number of steps per second.
        stop_if_requested: raises `KeyboardInterrupt` if the user or the scheduler asked the run to stop.
        pending: stores partly learned tasks.
        side_by_side: whether to learn independent tasks side by side.
        shares_batches: whether all devices share the batches of one task.
        cache_size: shorter side, in pixels, to which images on disk are resized.
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
        """Number of tasks to learn, including the tasks learned so far."""
        return self.evaluations[-1]

    @property
    def held_out(self) -> HeldOut:
        """The tasks with their test images."""
        return HeldOut(self.parts.benchmark, self.test, self.tasks, np.arange(self.num_tasks), self.seed)

    def chunk_end(self, first: int, until_evaluation: bool) -> int:
        """Return the index after the last task that a chunk may contain.

        Args:
            first: index of the first task of the chunk.
            until_evaluation: whether the chunk must end at the next evaluation.
        """
        stop = min(first + self.tasks_at_once, self.num_tasks)
        return min(stop, next(count for count in self.evaluations if count > first)) if until_evaluation else stop


def divergence(parts: Parts, task: int, step: int, loss: float) -> UserError:
    """Return the error for a task whose training diverged.

    Args:
        parts: parts of the experiment.
        task: task number.
        step: the step with the first non-finite loss, counted from 0.
        loss: loss at that step.
    """
    setting, optimizer = "--learning-rate", parts.optimizer
    if parts.method.trains_weights(task):
        setting, optimizer = "--weights-learning-rate", parts.weights_optimizer
    return UserError(
        f"task {task} diverged: at step {step + 1} of {parts.steps} its loss is {loss:g}; give a smaller "
        f"{setting} than {optimizer.learning_rate:g} (this task is discarded; all earlier tasks are kept)"
    )
