"""Scenario NNs: nobody tells the learner where a task ends, nor which task a test image belongs to."""

import dataclasses
import time
from collections.abc import Callable
from functools import cache, cached_property
from itertools import groupby, pairwise
from typing import Any

import jax
import numpy as np

from supsup_jax import evaluation
from supsup_jax.data import Benchmark
from supsup_jax.discovery import DivergedError, Learner, Rule
from supsup_jax.errors import UserError
from supsup_jax.experiment import Parts
from supsup_jax.inference import Search
from supsup_jax.methods import Bank
from supsup_jax.metrics import discovery_metrics, usual_masks
from supsup_jax.model import Model
from supsup_jax.networks import Stats
from supsup_jax.runs import records
from supsup_jax.runs.checkpoints import Chunk
from supsup_jax.runs.learned import DiscoveredTasks
from supsup_jax.runs.records import Record, StreamResult, TaskResult
from supsup_jax.scenarios import programs
from supsup_jax.scenarios.loop import Loop
from supsup_jax.scenarios.scenario import NNs
from supsup_jax.training import augmentation_keys, drawn_batches, epoch_ends, keys_of, task_key


class StreamOfTasks(Loop):
    """Feeds a learner with tasks one after another, and measures what it makes of them: only that knows the tasks.

    A checkpoint holds the slots that were trained since the one before it.
    """

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        position = {}
        if self.record.stream:
            last = self.record.stream[-1]
            position = {"active": last.active, "since_check": last.since_check}
        self._state = self._learner.resume(self.weights, self._restored.slots, **position)
        self._restored.slots.clear()  # thousands of slots would be held twice as they are trained further

    @cached_property
    def _learner(self) -> Learner:
        parts = self.parts
        return Learner(parts.net, parts.method, parts.optimizer, self._rule, self.experiment.seed)

    @property
    def _rule(self) -> Rule:
        """When a task is new."""
        search = self.parts.protocol.infer
        assert isinstance(search, Search)
        return self._scenario.rule(search.objective)

    @property
    def _scenario(self) -> NNs:
        assert isinstance(self.experiment.scenario, NNs)
        return self.experiment.scenario

    @cached_property
    def _restored(self) -> DiscoveredTasks:
        return DiscoveredTasks(self._learner, self.weights, self.fresh_stats)

    def _take_in(self, chunk: Chunk, news: Record, restored: bool) -> None:
        if restored:  # what has just been learned is there already
            self._restored.add(chunk, news.stream[-1].saved)

    def _shapes(self, num_tasks: int) -> tuple[Any, Any]:
        return self._restored.shapes(num_tasks)

    def _bank_and_stats(self) -> tuple[Bank, Stats]:
        return jax.device_get(self._learner.masks(self._state, self.weights)), self._learner.stats(self._state)

    def _model(self, num_tasks: int) -> Model:
        return super()._model(len(self._state.slots))

    def _unchanged_since(self, num_tasks: int) -> bool:
        return num_tasks == self._num_learned

    def _learn_chunk(self) -> None:
        first = self._num_learned
        stop = min(first + self.tasks_at_once, self._next_evaluation)
        news, trained, diverged = Record(), set(), None
        for number in range(first, stop):
            before, started = self._state, time.perf_counter()
            try:
                used = self._feed(number)
            except UserError as error:
                self._state, diverged = before, error
                break
            seconds = time.perf_counter() - started
            trained |= {int(slot) for slot in used if slot >= 0}
            runs = [[int(slot), len([*batches])] for slot, batches in groupby(used)]
            position = self._state.active, self._state.since_check
            news.stream.append(StreamResult(number, runs, [], *position))
            accuracy = self._accuracy(number, int(usual_masks([runs])[0]))
            news.tasks.append(TaskResult(number, records.now(), None, accuracy, accuracy, seconds))
            message = f"task {number} came, accuracy {100 * accuracy:.2f} %; masks so far: {len(self._state.slots)}"
            self.report(message, self.parts.steps / seconds, number + 1)
        if news.stream:
            saved = sorted(trained)
            news.stream[-1] = dataclasses.replace(news.stream[-1], saved=saved)
            slots: list[Any] = [self._state.slots[slot] for slot in saved]
            self._save(self._restored.chunk(slots) if slots else None, news)
        if diverged:
            raise diverged

    def _feed(self, number: int) -> list[int]:
        """Feeds the learner with a task's batches, which are those that a learner of given tasks has.

        Raises:
            UserError: if training diverges.
        """
        experiment, benchmark = self.experiment, self.parts.benchmark
        weights, stats, train, _ = self.on_devices
        task = jax.tree.map(lambda leaf: leaf[number], self.tasks)
        _, order_key = keys_of(task_key(experiment.seed, number))
        rows = drawn_batches(benchmark, self.parts.steps, experiment.training.batch_size)(order_key, task)
        used: list[int] = []
        ends = epoch_ends(benchmark.train_size, self.parts.steps, experiment.training.batch_size)
        for start, stop in pairwise([0, *ends]):
            for piece in range(start, stop, self._scenario.check_every):
                batches = rows[piece : min(piece + self._scenario.check_every, stop)]
                images, labels = _shown(benchmark)(train, task, batches, order_key, piece)
                check = self._scenario.check_epochs and piece == start
                try:
                    self._state, slots = self._learner.learn(self._state, weights, stats, images, labels, check)
                except DivergedError as error:
                    raise programs.divergence(self.parts, number, piece + error.batch, error.loss) from None
                used += slots.tolist()
        return used

    def _accuracy(self, number: int, slot: int) -> float:
        """The accuracy of a task with the mask of a slot; nothing is right where none was trained."""
        if slot < 0:
            return 0.0
        task = jax.tree.map(lambda leaf: leaf[number], self.tasks)
        weights, _, _, test = self.on_devices
        own = self._state.slots[slot]
        return float(_measured(self.parts)(weights, own.params, own.stats, test, task))

    def _evaluate(self, num_tasks: int) -> tuple[evaluation.Evaluation, dict[str, Any]]:
        _, _, _, test = self.on_devices
        runs = [result.slots for result in self.record.stream]
        tasks = jax.tree.map(lambda leaf: leaf[:num_tasks], self.tasks)
        what = self.parts.benchmark, self.parts.protocol, self.experiment.seed, test, tasks
        measured = evaluation.evaluate(self._model(num_tasks), *what, entries=usual_masks(runs))
        return measured, {"discovery": discovery_metrics(runs)._asdict()}


@cache
def _shown(benchmark: Benchmark) -> Callable[..., Any]:
    """The jitted function that shows batches as a task shows them."""

    def show(split: Any, task: Any, batches: Any, order_key: Any, first: Any) -> tuple[jax.Array, jax.Array]:
        def one(numbered: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
            step, rows = numbered
            keys = augmentation_keys(order_key, step, np.arange(len(rows)))
            return benchmark.samples(split, task, rows, True, keys)

        return jax.lax.map(one, (first + np.arange(len(batches)), batches))

    return jax.jit(show)


@cache
def _measured(parts: Parts) -> Callable[..., Any]:
    """The jitted function that gives a task's accuracy with a slot."""

    def accuracy(weights: Any, params: Any, stats: Any, test: Any, task: Any) -> jax.Array:
        effective = parts.method.training_weights(weights, params)
        return evaluation.accuracy(parts.net, parts.benchmark, test, effective, stats, task)

    return jax.jit(accuracy)
