"""What the loops have in common: what is learned and measured lies in memory and on disk alike, and is evaluated."""

import contextlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from supsup_jax import evaluation
from supsup_jax.data import Dataset
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment, Parts
from supsup_jax.methods import Bank
from supsup_jax.model import Model
from supsup_jax.networks import Stats, has_convolutions
from supsup_jax.runs import formats, results, storage
from supsup_jax.runs.checkpoints import Checkpoints, Chunk
from supsup_jax.runs.identity import check_weights, describe
from supsup_jax.runs.records import EvaluationResult, Record
from supsup_jax.system import atomic, backend, devices, hosts, interruption
from supsup_jax.training import weights_key


class Outcome(NamedTuple):
    """A finished run.

    Attributes:
        experiment: its settings.
        dataset: the data set that they name.
        folder: where it lies.
        parts: network, method, benchmark, optimisers and protocol.
        model: all tasks, or all discovered ones.
        record: what was measured.
    """

    experiment: Experiment
    dataset: Dataset
    folder: Path
    parts: Parts
    model: Model
    record: Record


class Report(NamedTuple):
    """How far a run is.

    Attributes:
        tasks: tasks learned.
        of: tasks to learn.
        steps_per_second: updates a second, of all tasks of the last chunk together; nothing learned yet: 0.
        message: what has just been done or is to come, in a few words.
        is_done: whether that has been done.
    """

    tasks: int
    of: int
    steps_per_second: float
    message: str
    is_done: bool = False


class Loop(ABC):
    """The run of an experiment in a folder, which may hold an earlier part of it.

    Args:
        experiment: the settings.
        dataset: the data set that they name.
        folder: the run's folder; it must exist.
        tasks_at_once: tasks to learn between two checkpoints; by default as many as fit in memory.
        report: called as the run goes on.
        open_until: closes the folder's checkpoints.
    """

    _events: results.EventWriter

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        folder: Path,
        tasks_at_once: int | None,
        report: Callable[[Report], None],
        open_until: contextlib.ExitStack,
    ):
        self.experiment, self.dataset, self.folder = experiment, dataset, folder
        self.parts = experiment.build(dataset)
        self.weights, self.fresh_stats = self.parts.net.init(weights_key(experiment.seed))
        self._about = describe(experiment, self.parts.benchmark.inputs, self.weights)
        self.checkpoints = open_until.enter_context(Checkpoints(folder, self._about))
        self.record = Record()
        self._listener = report
        self._restore()
        if self._num_learned > experiment.num_tasks:
            raise UserError(
                f"{folder} holds {self._num_learned} tasks; give --num-tasks {self._num_learned} or more, or start "
                "without --resume"
            )
        numbers = range(experiment.first_task, experiment.first_task + experiment.num_tasks)
        self.tasks = self.parts.benchmark.tasks(dataset, experiment.seed, numbers)
        self.on_devices = devices.replicate((self.weights, self.fresh_stats, *self._resident()))
        self.tasks_at_once = min(tasks_at_once or self._tasks_that_fit(), experiment.num_tasks)

    @classmethod
    def run(
        cls,
        experiment: Experiment,
        dataset: Dataset,
        folder: Path,
        tasks_at_once: int | None = None,
        report: Callable[[Report], None] = lambda report: None,
    ) -> Outcome:
        """Runs an experiment, or goes on with it where the folder holds an earlier part of the same run.

        Args:
            experiment: the settings.
            dataset: the data set that they name.
            folder: the run's folder; it must exist.
            tasks_at_once: tasks to learn between two checkpoints; by default as many as fit in memory.
            report: called as the run goes on.

        Raises:
            UserError: if the folder's checkpoints cannot be read, or another process is using it.
        """
        with contextlib.ExitStack() as stack:
            hosts.told_by_first(lambda: stack.enter_context(atomic.alone(folder)))
            loop = cls(experiment, dataset, folder, tasks_at_once, report, stack)
            if hosts.is_first():
                loop._events = stack.enter_context(results.EventWriter(folder))
            return loop._go()

    def _resident(self) -> tuple[Any, Any]:
        """What lies on the devices all the time of the training and the test samples; by default all."""
        return self.dataset.train, self.dataset.test

    @abstractmethod
    def _learn_chunk(self) -> None:
        """Learns the next tasks, and saves them."""

    @abstractmethod
    def _evaluate(self, num_tasks: int) -> tuple[evaluation.Evaluation, dict[str, Any]]:
        """Evaluates so many tasks; with what is to be recorded besides."""

    @abstractmethod
    def _bank_and_stats(self) -> tuple[Bank, Stats]:
        """What is kept of all tasks learned so far, and their statistics."""

    @abstractmethod
    def _unchanged_since(self, num_tasks: int) -> bool:
        """Whether so many tasks can be evaluated now as they could when no more were learned."""

    @abstractmethod
    def _shapes(self, num_tasks: int) -> tuple[Any, Any]:
        """The shapes and types of a chunk of so many: what is kept, and statistics."""

    def _model(self, num_tasks: int) -> Model:
        """The first tasks that were learned, with the base weights as they are now."""
        bank, stats = self._bank_and_stats()
        net, method = self.parts.net, self.parts.method
        weights = self.on_devices[0]
        return Model(net=net, method=method, num_tasks=num_tasks, weights=weights, bank=bank, stats=stats)

    def _state_shapes(self) -> dict[str, Any]:
        """The shapes and types of what is replaced as tasks come; by default nothing is."""
        return {}

    @abstractmethod
    def _take_in(self, chunk: Chunk, news: Record, restored: bool) -> None:
        """Takes in a chunk and what was measured of it, newly learned or restored; part of the record by then."""

    def _take_in_state(self, state: dict[str, Any]) -> None:
        """Takes in what was replaced."""
        self.weights = state.get("weights", self.weights)

    def _restore(self) -> None:
        """Takes in what was saved, if it is of the same run and whole."""
        saved = self.checkpoints.restore(self._shapes, self._state_shapes())
        for step in saved.steps:
            self._check(step.run)
            news = Record.from_json(step.record)
            if any(task.labels for task in news.tasks):
                raise UserError(
                    f"{self.folder} holds tasks that were learned from Python; go on there: supsup_jax.restore(...)"
                )
            self.record.add(news)
            if step.chunk:
                self._take_in(step.chunk, news, restored=True)
        if saved.state:
            self._take_in_state(saved.state)

    def _check(self, run: dict[str, Any]) -> None:
        """Compares what was saved with this run.

        Args:
            run: what a checkpoint says of the run that it is of.

        Raises:
            UserError: if it is another.
        """
        if differences := formats.differences(self.experiment, run["experiment"]):
            raise UserError(
                f"{self.folder} holds a run of other settings ({'; '.join(differences)}); use its settings, "
                "or start without --resume"
            )
        check_weights(self._about, run, self.folder)

    def _save(self, chunk: Chunk | None, news: Record, state: dict[str, Any] | None = None) -> None:
        """Saves what is new, takes it in, and brings the run's files up to it."""
        self.checkpoints.save(chunk, news.to_json(), state)
        self.record.add(news)
        if chunk:
            self._take_in(chunk, news, restored=False)
        if state:
            self._take_in_state(state)
        self._write(news, is_new=True)

    def _write(self, news: Record, is_new: bool) -> None:
        """Brings the run's files up to the record.

        Args:
            news: what they may lack.
            is_new: whether none of it can be in them. With every task only what is new is written then.
        """
        if not hosts.is_first():
            return
        name = self.folder.name
        if news.tasks:
            results.append_results(self.folder.parent / "results.csv", self.folder, name, news.tasks, is_new)
        if is_new and not (news.evaluations or news.stream):
            results.append_tasks(self.folder, news.tasks)
        else:
            results.write_files(self.folder, name, self.record)
        self._events.write(self.record)

    @property
    def _num_learned(self) -> int:
        return len(self.record.tasks)

    @property
    def _next_evaluation(self) -> int:
        """The number of tasks learned after which all are evaluated next."""
        return next(count for count in self.experiment.evaluations if count > self._num_learned)

    def _go(self) -> Outcome:
        """Learns the tasks that are not learned yet, and evaluates where it is due.

        Raises:
            KeyboardInterrupt: between two chunks, or evaluations, if an end was asked for.
        """
        self._write(self.record, is_new=False)
        self._evaluate_where_due()
        while self._num_learned < self.experiment.num_tasks:
            self._stop_if_asked()
            self._learn_chunk()
            self._evaluate_where_due()
        return Outcome(
            experiment=self.experiment,
            dataset=self.dataset,
            folder=self.folder,
            parts=self.parts,
            model=self._model(self._num_learned),
            record=self.record,
        )

    def _evaluate_where_due(self) -> None:
        """Evaluates at every number of tasks that has been reached and not been evaluated."""
        done = {result.num_tasks for result in self.record.evaluations}
        for num_tasks in self.experiment.evaluations:
            if num_tasks > self._num_learned or num_tasks in done:
                continue
            if not self._unchanged_since(num_tasks):
                self.report(
                    f"not evaluated: {num_tasks} tasks, since what they share has changed with later ones", is_done=True
                )
                continue
            self._stop_if_asked()
            self.report(f"evaluating {num_tasks} tasks")
            started = time.perf_counter()
            measured, more = self._evaluate(num_tasks)
            result = EvaluationResult.of(
                measured,
                seconds=time.perf_counter() - started,
                training_seconds=sum(task.seconds for task in self.record.tasks[:num_tasks]),
                storage=storage.account(self._model(num_tasks)),
                **more,
            )
            self._save(None, Record(evaluations=[result]))
            if result.inferred is None or result.picked is None:
                self.report(
                    f"{num_tasks} tasks: accuracy {100 * np.mean(result.given):.2f} % with the task given", is_done=True
                )
            else:
                self.report(
                    f"{num_tasks} tasks: accuracy {100 * np.mean(result.inferred):.2f} % with the task inferred, "
                    f"which was right in {100 * np.mean(result.picked):.2f} %",
                    is_done=True,
                )

    def _stop_if_asked(self) -> None:
        """A place where the run can stop.

        Raises:
            KeyboardInterrupt: if an end was asked for, here or on another host.
        """
        if hosts.any_of(interruption.asked()):
            raise interruption.kind()

    def report(
        self, message: str, steps_per_second: float = 0.0, tasks: int | None = None, is_done: bool = False
    ) -> None:
        """Says how far the run is; by default as many tasks are learned as are recorded."""
        learned = self._num_learned if tasks is None else tasks
        self._listener(Report(learned, self.experiment.num_tasks, steps_per_second, message, is_done))

    def _tasks_that_fit(self) -> int:
        # The task's parameters, their gradient, two moments, effective weights, their gradient; rows of all batches;
        # the images of a batch of the validation on their way through the network.
        weights = backend.num_bytes(self.weights)
        rows = self.parts.steps * self.experiment.training.batch_size
        pixels = math.prod(self.dataset.image_shape)
        convolutions = has_convolutions(self.weights)
        return devices.tasks_at_once(6 * weights + 8 * rows + 16 * evaluation.IMAGES_AT_ONCE * pixels, convolutions)
