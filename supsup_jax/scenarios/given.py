"""Scenarios GG, GNu and GNs: the learner is told where a task ends."""

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supsup_jax import evaluation, memory_evaluation, parallel, records
from supsup_jax.checkpoints import Checkpoints, Chunk
from supsup_jax.data import Dataset
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment, Parts
from supsup_jax.methods import HopSupSup, Kept, Legacy, Method, Store
from supsup_jax.networks import Stats, Weights, has_convolutions
from supsup_jax.optimizers import Optimizer
from supsup_jax.records import Record, TaskResult
from supsup_jax.scenarios.run import Run
from supsup_jax.training import Learned, Learner, task_key, train_task


class GivenTasks(Run):
    """Learns tasks side by side, or in turn where they train the shared weights."""

    def __init__(self, *arguments: Any):
        self._chunks: list[Chunk] = []
        self._memory: Store | None = None  # what is kept of all tasks, where that does not grow with them
        self._legacy: Legacy | None = None  # what the last task that was learned in turn has left
        super().__init__(*arguments)
        kept, first = sum(chunk.num_tasks for chunk in self._chunks), self.experiment.first_task
        if [task.task for task in self.record.tasks] != list(range(first, first + kept)):
            raise UserError(
                f"{self.folder} holds masks of {kept} tasks, but results of others; restore it from a copy, "
                "or start without --resume"
            )

    def _take_in(self, chunk: Chunk, news: Record, restored: bool) -> None:
        self._chunks.append(chunk)

    def _take_in_state(self, state: dict[str, Any]) -> None:
        super()._take_in_state(state)
        self._memory = state.get("memory", self._memory)
        self._legacy = state.get("legacy", self._legacy)

    def _kept(self) -> tuple[Store, Stats]:
        method = self.parts.method
        chunk = together(method, self._chunks)
        self._chunks = [chunk]  # put together once, and not again at every evaluation
        return chunk.store if method.store_grows else self._memory, chunk.stats

    def _unchanged_since(self, num_tasks: int) -> bool:
        method, later = self.parts.method, range(num_tasks, self._num_learned)
        return not later or (method.store_grows and not any(method.trains_weights(task) for task in later))

    def _shapes(self, num_tasks: int) -> tuple[Any, Any]:
        return shapes_of(self.parts.method, self.weights, self.fresh_stats, num_tasks)

    def _state_shapes(self) -> dict[str, Any]:
        method = self.parts.method

        def state(weights: Weights) -> dict[str, Any]:
            kept = method.keep(method.init_task(jax.random.key(0), weights))
            left = {"weights": weights} if method.trains_weights(0) else {}
            if method.in_turn(0):
                left |= _if_any(method.first_legacy(weights))
            if method.store_grows:
                return left
            return left | {"memory": method.remember(None, jax.tree.map(lambda leaf: leaf[None], kept))}

        return jax.eval_shape(state, self.weights)

    def _next_tasks(self) -> np.ndarray:
        """The tasks to learn before the next checkpoint: as many as may be, and all of them alike.

        Where they change what earlier ones are evaluated with, they end where that is due.
        """
        method, first = self.parts.method, self._num_learned
        stop = min(first + self.tasks_at_once, self.experiment.num_tasks)
        if method.trains_weights(first) or not method.store_grows:
            stop = min(stop, self._next_evaluation)

        def how(task: int) -> tuple[bool, bool]:
            return method.in_turn(task), method.trains_weights(task)

        return np.array([*takewhile(lambda task: how(task) == how(first), range(first, stop))])

    def _learn_chunk(self) -> None:
        experiment, method = self.experiment, self.parts.method
        places = self._next_tasks()
        numbers = experiment.first_task + places
        first = int(numbers[0])
        self.report(f"learning tasks {first} to {numbers[-1]}" if len(numbers) > 1 else f"learning task {first}")
        started = time.perf_counter()
        keys = jax.vmap(lambda task: task_key(experiment.seed, task))(numbers)
        tasks = jax.tree.map(lambda leaf: leaf[places], self.tasks), keys
        state = {}
        if method.in_turn(first):
            learned, state = self._learn_in_turn(tasks, len(numbers), method.trains_weights(first))
        else:
            convolutions = has_convolutions(self.weights)
            train = _side_by_side(self.parts, self.parts.steps, experiment.batch_size, convolutions)
            shared = *self.on_devices, self._started_from()
            learned = jax.block_until_ready(train(shared, tasks, self.tasks_at_once))
        self._save_learned(learned, state, time.perf_counter() - started)

    def _save_learned(self, learned: Learned, state: dict[str, Any], seconds: float) -> None:
        """Saves the next tasks, now that they are learned.

        Args:
            learned: what came of them, stacked along a leading task axis.
            state: what they have replaced.
            seconds: how long it took.
        """
        method, count = self.parts.method, len(learned.loss)
        if method.store_grows:
            store, masks = method.pack(learned.kept), [None] * count
        else:
            state["memory"] = jax.device_get(method.remember(self._memory, learned.kept))
            store, masks = {}, _as_hex(learned.kept)
        store, stats, loss, accuracy = jax.device_get((store, learned.stats, learned.loss, learned.accuracy))
        results = [
            TaskResult(
                task=self.experiment.first_task + self._num_learned + row,
                finished=records.now(),
                loss=float(loss[row, -1]),
                accuracy=float(accuracy[row, -1]),
                best=float(accuracy[row].max()),
                seconds=seconds / count,
                mask=masks[row],
            )
            for row in range(count)
        ]
        self._save(Chunk(count, store, stats), Record(tasks=results), state or None)
        self.report(
            f"accuracy {100 * accuracy[:, -1].mean():.2f} % with the task given", count * self.parts.steps / seconds
        )

    def _started_from(self) -> Legacy:
        """What the next task starts from."""
        return self.parts.method.first_legacy(self.weights) if self._legacy is None else self._legacy

    def _learn_in_turn(self, tasks: Any, count: int, trains_weights: bool) -> tuple[Learned, dict[str, Any]]:
        """Learns tasks of which each starts with what the one before has left; with what the last one leaves."""
        train = _alone(self.parts, self.parts.steps, self.experiment.batch_size, trains_weights)
        legacy, learned = self._started_from(), []
        for row in range(count):
            one = train((*self.on_devices, legacy), jax.tree.map(lambda leaf, row=row: leaf[row], tasks))
            legacy = one.legacy
            self._start_from(one.weights)
            learned.append(jax.device_get(one._replace(weights=None, legacy=None)))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *learned), self._left(trains_weights, legacy)

    def _start_from(self, weights: Weights | None) -> None:
        """Has later tasks start from the shared weights as a task left them, if it trained them."""
        if weights is not None:
            self.on_devices = (weights, *self.on_devices[1:])

    def _left(self, trains_weights: bool, legacy: Legacy) -> dict[str, Any]:
        """What tasks that were learned in turn have replaced, as it is saved."""
        left = {"weights": self.on_devices[0]} if trains_weights else {}
        return jax.device_get(left | _if_any(legacy))

    def _evaluate(self, num_tasks: int) -> tuple[evaluation.Evaluation, dict[str, Any]]:
        weights, _, _, test = self.on_devices
        net, method, protocol = self.parts.net, self.parts.method, self.parts.protocol
        common = (self.parts.benchmark, protocol, self.experiment.seed, weights)
        store, stats = self._kept()
        if isinstance(method, HopSupSup):
            like = method.init_task(jax.random.key(0), self.weights)
            truth = _from_hex([task.mask or "" for task in self.record.tasks[:num_tasks]], like)
            measured, paths = memory_evaluation.evaluate_recovery(net, method, *common, store, truth, test, self.tasks)
            return measured, {"recovery": paths}
        return evaluation.evaluate(net, method, *common, stats, store, num_tasks, test, self.tasks), {}


def tasks_of_run(folder: Path, experiment: Experiment, dataset: Dataset) -> tuple[Chunk, list[TaskResult]]:
    """What a finished run holds of its tasks, which it learned side by side or one by one.

    Raises:
        UserError: if it cannot be read.
    """
    parts = experiment.build(dataset)
    weights, stats = jax.eval_shape(parts.net.init, jax.random.key(0))
    with Checkpoints(folder, experiment.to_json()) as checkpoints:
        steps = checkpoints.restore(partial(shapes_of, parts.method, weights, stats)).steps
    chunks = [step.chunk for step in steps if step.chunk]
    return together(parts.method, chunks), [task for step in steps for task in Record.from_json(step.record).tasks]


def together(method: Method, chunks: Sequence[Chunk]) -> Chunk:
    """Several chunks of tasks as one."""
    if len(chunks) == 1:
        return chunks[0]
    counts, stores, stats = zip(*chunks, strict=True)
    store = method.concatenate(stores, counts) if method.store_grows else {}
    return Chunk(sum(counts), store, jax.tree.map(lambda *leaves: np.concatenate(leaves), *stats))


def shapes_of(method: Method, weights: Any, stats: Any, num_tasks: int) -> tuple[Any, Any]:
    """The shapes and types of what is kept of so many tasks, and of their statistics, given those of the weights."""

    def stacked(weights: Weights, stats: Stats) -> tuple[Store, Stats]:
        kept = method.keep(method.init_task(jax.random.key(0), weights))
        kept, stats = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_tasks), (kept, stats))
        return method.pack(kept) if method.store_grows else {}, stats

    return jax.eval_shape(stacked, weights, stats)


def _if_any(legacy: Legacy) -> dict[str, Legacy]:
    """A part of the state, if there is anything in it."""
    return {"legacy": legacy} if jax.tree.leaves(legacy) else {}


def _as_hex(masks: Kept) -> list[str]:
    """The bits of masks of vectors, stacked, leaf after leaf."""
    bits = np.concatenate([np.asarray(leaf) != 0 for leaf in jax.tree.leaves(masks)], axis=1)
    return [row.tobytes().hex() for row in np.packbits(bits, axis=1)]


def _from_hex(masks: list[str], like: Kept) -> Kept:
    """Masks of vectors, stacked, from their bits."""
    bits = np.unpackbits(np.array([list(bytes.fromhex(mask)) for mask in masks], np.uint8), axis=1)
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([len(leaf) for leaf in leaves])
    parts = [bits[:, end - len(leaf) : end] for leaf, end in zip(leaves, ends, strict=True)]
    return structure.unflatten([part.astype(np.float32) for part in parts])


def _learner(parts: Parts, optimizer: Optimizer, trains_weights: bool, steps: int, batch_size: int) -> Any:
    """The function that learns one task."""

    def learn(shared: Any, one: Any) -> Learned:
        weights, stats, train, test, legacy = shared
        task, key = one
        # A network of HopSupSup answers by the statistics of the batch, so batches are as large as in its evaluation.
        images_at_once = parts.protocol.batch_size if isinstance(parts.method, HopSupSup) else None
        validate = partial(evaluation.accuracy, parts.net, parts.benchmark, test, images_at_once=images_at_once)
        return train_task(
            learner=Learner(parts.net, parts.method, optimizer, trains_weights),
            benchmark=parts.benchmark,
            steps=steps,
            batch_size=batch_size,
            validate=validate,
            weights=weights,
            stats=stats,
            train=train,
            task=task,
            key=key,
            legacy=legacy,
        )

    return learn


@cache
def _side_by_side(parts: Parts, steps: int, batch_size: int, convolutions: bool) -> Callable[..., Learned]:
    """The jitted function that learns a chunk of independent tasks; the same one for the same settings."""
    learn = _learner(parts, parts.optimizer, False, steps, batch_size)
    # What independent tasks leave is what they found.
    return parallel.over_tasks(lambda shared, one: learn(shared, one)._replace(legacy=None), convolutions=convolutions)


@cache
def _alone(parts: Parts, steps: int, batch_size: int, trains_weights: bool) -> Callable[..., Learned]:
    """The jitted function that learns one task in turn, perhaps with the shared weights; one for the same settings."""
    optimizer = parts.weights_optimizer if trains_weights else parts.optimizer
    return jax.jit(_learner(parts, optimizer, trains_weights, steps, batch_size))
