"""The loop of a run: tasks arrive one after another, are learned, saved and evaluated."""

import math
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock, Timeout

from supsup_jax import backend, evaluation, parallel, results
from supsup_jax.checkpoints import Checkpoints, Chunk
from supsup_jax.data import Dataset
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment, Parts
from supsup_jax.methods import Store
from supsup_jax.networks import Stats, Weights
from supsup_jax.results import EvaluationResult, Record, TaskResult
from supsup_jax.training import task_key, train_task, weights_key


class Outcome(NamedTuple):
    """A finished run.

    Attributes:
        experiment: its settings.
        dataset: the data set that they name.
        folder: where it lies.
        parts: network, method, benchmark, optimiser and protocol.
        weights: the shared weights.
        stats: statistics of every task, stacked.
        store: what is kept of every task.
        record: what was measured.
    """

    experiment: Experiment
    dataset: Dataset
    folder: Path
    parts: Parts
    weights: Weights
    stats: Stats
    store: Store
    record: Record


class Report(NamedTuple):
    """How far a run is.

    Attributes:
        tasks: tasks learned.
        of: tasks to learn.
        steps_per_second: updates a second, of all tasks of the last chunk together; nothing learned yet: 0.
        message: what has just been done or is to come, in a few words.
    """

    tasks: int
    of: int
    steps_per_second: float
    message: str


def learn_given_tasks(
    experiment: Experiment,
    dataset: Dataset,
    folder: Path,
    tasks_at_once: int | None = None,
    report: Callable[[Report], None] = lambda report: None,
) -> Outcome:
    """Scenarios GG and GNu: learns tasks whose boundaries are given, and evaluates with the task given and inferred.

    A folder that holds an earlier part of the same run is gone on with.

    Args:
        experiment: the settings.
        dataset: the data set that they name.
        folder: the run's folder; it must exist.
        tasks_at_once: tasks to learn between two checkpoints; by default as many as fit in memory.
        report: called as the run goes on.

    Raises:
        UserError: if the folder's checkpoints cannot be read, or another process is using it.
    """
    try:
        with FileLock(folder / ".lock", timeout=0), Checkpoints(folder, experiment.to_json()) as checkpoints:
            run = _Run(experiment, dataset, _Progress(experiment, dataset, folder, checkpoints), tasks_at_once, report)
            with results.EventWriter(folder) as run.progress.events:
                return run.go()
    except Timeout as error:
        raise UserError(f"{folder} is in use by another process; wait for it, or start without --resume") from error


class _Progress:
    """What is learned and measured so far, in memory and on disk alike."""

    events: results.EventWriter

    def __init__(self, experiment: Experiment, dataset: Dataset, folder: Path, checkpoints: Checkpoints):
        self.folder, self.checkpoints = folder, checkpoints
        self.parts = experiment.build(dataset)
        self.weights, self.fresh_stats = self.parts.net.init(weights_key(experiment.seed))
        self.chunks: list[Chunk] = []
        self.record = Record()
        self._restore(experiment)

    def _restore(self, experiment: Experiment) -> None:
        """Takes in what was saved, if it is of the same run and whole."""
        for step in self.checkpoints.restore(self._shapes):
            if differences := experiment.differs_from(step.experiment):
                raise UserError(
                    f"{self.folder} holds a run of other settings ({'; '.join(differences)}); use its settings, "
                    "or start without --resume"
                )
            if step.chunk:
                self.chunks.append(step.chunk)
            self.record.add(Record.from_json(step.record))
        kept = sum(chunk.num_tasks for chunk in self.chunks)
        if [task.task for task in self.record.tasks] != list(range(kept)):
            raise UserError(
                f"{self.folder} holds masks of {kept} tasks, but results of others; restore it from a copy, "
                "or start without --resume"
            )

    @property
    def num_learned(self) -> int:
        return len(self.record.tasks)

    def save(self, chunk: Chunk | None, news: Record) -> None:
        """Takes in what is new, saves it, and brings the run's files up to it."""
        self.checkpoints.save(chunk, news.to_json())
        if chunk:
            self.chunks.append(chunk)
        self.record.add(news)
        self.write(news.tasks)

    def write(self, tasks: list[TaskResult]) -> None:
        """Brings the run's files up to the record, of which `results.csv` may lack these tasks."""
        name = self.folder.name
        if tasks:
            results.append_results(self.folder.parent / "results.csv", self.folder, name, tasks)
        results.write_files(self.folder, name, self.record)
        self.events.write(self.record)

    def store(self) -> Store:
        """What is kept of all tasks learned so far."""
        counts = [chunk.num_tasks for chunk in self.chunks]
        return self.parts.method.concatenate([chunk.store for chunk in self.chunks], counts)

    def stats(self) -> Stats:
        """Statistics of all tasks learned so far, stacked."""
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *(chunk.stats for chunk in self.chunks))

    def kept_bytes(self, num_tasks: int) -> int:
        """The bytes of what is kept of so many tasks."""
        return backend.num_bytes(self._shapes(num_tasks)[0])

    def _shapes(self, num_tasks: int) -> tuple[Any, Any]:
        """The shapes and types of what is kept of so many tasks, and of their statistics."""
        method = self.parts.method

        def stacked(weights: Weights, stats: Stats) -> tuple[Store, Stats]:
            kept = method.keep(method.init_task(jax.random.key(0), weights))
            kept, stats = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_tasks), (kept, stats))
            return method.pack(kept), stats

        return jax.eval_shape(stacked, self.weights, self.fresh_stats)


class _Run:
    """The loop over tasks."""

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        progress: _Progress,
        tasks_at_once: int | None,
        report: Callable[[Report], None],
    ):
        self.experiment, self.dataset, self.progress, self.report = experiment, dataset, progress, report
        self.parts = progress.parts
        self.tasks = self.parts.benchmark.tasks(experiment.seed, range(experiment.num_tasks))
        self.on_devices = parallel.replicate((progress.weights, progress.fresh_stats, dataset.train, dataset.test))
        self.tasks_at_once = min(self._tasks_at_once(tasks_at_once), experiment.num_tasks)

    def _tasks_at_once(self, asked: int | None) -> int:
        if not self.parts.method.independent:
            return 1
        if asked:
            return asked
        # What the task owns, its gradient, two moments, effective weights and their gradient; the rows of all batches;
        # the images of a batch of the validation on their way through the network.
        weights = backend.num_bytes(self.progress.weights)
        rows = self.experiment.steps * self.experiment.batch_size
        pixels = math.prod(self.dataset.image_shape)
        return parallel.tasks_at_once(6 * weights + 8 * rows + 16 * evaluation.IMAGES_AT_ONCE * pixels)

    def go(self) -> Outcome:
        """Learns the tasks that are not learned yet, and evaluates where it is due."""
        self.progress.write(self.progress.record.tasks)
        self._evaluate_where_due()
        while self.progress.num_learned < self.experiment.num_tasks:
            self._learn_chunk()
            self._evaluate_where_due()
        return Outcome(
            experiment=self.experiment,
            dataset=self.dataset,
            folder=self.progress.folder,
            parts=self.parts,
            weights=self.progress.weights,
            stats=self.progress.stats(),
            store=self.progress.store(),
            record=self.progress.record,
        )

    def _learn_chunk(self) -> None:
        """Learns the next tasks side by side, and saves them."""
        experiment, parts = self.experiment, self.parts
        first = self.progress.num_learned
        numbers = np.arange(first, min(first + self.tasks_at_once, experiment.num_tasks))
        self._report(f"learning tasks {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"learning task {first}")
        started = time.perf_counter()
        keys = jax.vmap(lambda task: task_key(experiment.seed, task))(numbers)
        tasks = jax.tree.map(lambda leaf: leaf[numbers], self.tasks)
        train = _trainer(parts, experiment.steps, experiment.batch_size)
        learned = jax.block_until_ready(train(self.on_devices, (tasks, keys), self.tasks_at_once))
        seconds = time.perf_counter() - started

        store, stats, loss, accuracy = jax.device_get(
            (parts.method.pack(learned.kept), learned.stats, learned.loss, learned.accuracy)
        )
        learned_tasks = [
            TaskResult(
                task=int(number),
                finished=results.now(),
                loss=float(losses[-1]),
                accuracy=float(accuracies[-1]),
                best=float(accuracies.max()),
                seconds=seconds / len(numbers),
            )
            for number, losses, accuracies in zip(numbers, loss, accuracy, strict=True)
        ]
        self.progress.save(Chunk(len(numbers), store, stats), Record(tasks=learned_tasks))
        self._report(
            f"accuracy {100 * accuracy[:, -1].mean():.2f} % with the task given",
            len(numbers) * experiment.steps / seconds,
        )

    def _evaluate_where_due(self) -> None:
        """Evaluates at every number of tasks that has been reached and not been evaluated."""
        record = self.progress.record
        done = {result.num_tasks for result in record.evaluations}
        for num_tasks in self.experiment.evaluations:
            if num_tasks > self.progress.num_learned or num_tasks in done:
                continue
            self._report(f"evaluating {num_tasks} tasks")
            started = time.perf_counter()
            weights, _, _, test = self.on_devices
            measured = evaluation.evaluate(
                net=self.parts.net,
                method=self.parts.method,
                benchmark=self.parts.benchmark,
                protocol=self.parts.protocol,
                seed=self.experiment.seed,
                weights=weights,
                stats=self.progress.stats(),
                store=self.progress.store(),
                num_tasks=num_tasks,
                test=test,
                tasks=self.tasks,
            )
            result = EvaluationResult.of(
                measured,
                seconds=time.perf_counter() - started,
                training_seconds=sum(task.seconds for task in record.tasks[:num_tasks]),
                mask_bytes=self.progress.kept_bytes(num_tasks),
            )
            self.progress.save(None, Record(evaluations=[result]))
            self._report(
                f"{num_tasks} tasks: accuracy {100 * np.mean(result.inferred):.2f} % with the task inferred, "
                f"which was right for {100 * np.mean(result.picked):.2f} % of the batches"
            )

    def _report(self, message: str, steps_per_second: float = 0.0) -> None:
        learned, of = self.progress.num_learned, self.experiment.num_tasks
        self.report(Report(learned, of, steps_per_second, message))


@cache
def _trainer(parts: Parts, steps: int, batch_size: int) -> Callable[..., Any]:
    """The jitted function that learns a chunk of tasks; the same one for the same settings."""

    def learn(shared: Any, one: Any) -> Any:
        weights, stats, train, test = shared
        task, key = one
        validate = partial(evaluation.accuracy, parts.net, parts.benchmark, test)
        return train_task(
            net=parts.net,
            method=parts.method,
            benchmark=parts.benchmark,
            optimizer=parts.optimizer,
            steps=steps,
            batch_size=batch_size,
            validate=validate,
            weights=weights,
            stats=stats,
            train=train,
            task=task,
            key=key,
        )

    return parallel.over_tasks(learn)
