"""Scenario NNs: task boundaries are hidden in training, and the task is inferred at test time."""

import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby, pairwise
from typing import Any

import jax
import numpy as np

from supsup_jax import classification, evaluation
from supsup_jax.data import Benchmark
from supsup_jax.errors import UserError
from supsup_jax.metrics import usual_masks
from supsup_jax.scenarios.discovery import DivergedError, Learner, Rule, State
from supsup_jax.scenarios.work import Measured, Parts, Snapshot, StreamResults, StreamTask, Work, divergence
from supsup_jax.training import augmentation_keys, drawn_batches, epoch_ends, keys_of, task_key


def learn(work: Work, rule: Rule, check_epochs: bool) -> Iterator[StreamResults]:
    """Feed the remaining tasks to a learner one after another, and measure the accuracy on each.

    Only the measurements use the identity of the tasks; the learner does not get it.

    Args:
        work: the tasks.
        rule: decides whether a task is new.
        check_epochs: whether to also check for a new task at the first batch of each epoch.

    Yields:
        A chunk of tasks. If a task diverges, the tasks before it are yielded first.

    Raises:
        UserError: if a task diverges.
    """
    parts = work.parts
    learner = Learner(parts.net, parts.method, parts.optimizer, rule, work.seed)
    state, index = work.state(), work.num_learned
    while index < work.num_tasks:
        tasks, trained, diverged = [], set[int](), None
        for number in range(index, work.chunk_end(index, until_evaluation=True)):
            started = time.perf_counter()
            try:
                after, used = _feed(work, learner, state, number, check_epochs)
            except UserError as error:
                diverged = error
                break
            state, seconds = after, time.perf_counter() - started
            trained |= {int(slot) for slot in used if slot >= 0}
            runs = [[int(slot), len([*batches])] for slot, batches in groupby(used)]
            accuracy = _accuracy(work, state, number, int(usual_masks([runs])[0]))
            tasks.append(StreamTask(number, runs, state.active, state.since_check, accuracy, seconds))
            message = f"task {number}: accuracy {100 * accuracy:.2f} %; masks so far: {len(state.slots)}"
            work.report(message, parts.steps / seconds, number + 1)
        if tasks:
            yield StreamResults(tasks, sorted(trained), state)
        if diverged:
            raise diverged
        index += len(tasks)


def evaluate(work: Work, snapshot: Snapshot, num_tasks: int, first: int = 0) -> Iterator[Measured]:
    """Evaluate tasks `first` to `num_tasks - 1` with the discovered masks."""
    entries = usual_masks([*snapshot.runs])[:num_tasks]
    test, protocol = work.held_out, work.parts.protocol
    yield from map(Measured, evaluation.evaluate_in_parts(snapshot.model, test, protocol, entries=entries, first=first))


def _feed(work: Work, learner: Learner, state: State, number: int, check_epochs: bool) -> tuple[State, list[int]]:
    """Feed the learner the batches of a task: the same batches as in the scenarios that give the task.

    Returns:
        The next state, and the slot that each batch trained.

    Raises:
        UserError: if training diverges.
    """
    benchmark, steps, check_every = work.parts.benchmark, work.parts.steps, learner.rule.check_every
    task = jax.tree.map(lambda leaf: leaf[number], work.tasks)
    _, order_key = keys_of(task_key(work.seed, number))
    rows = drawn_batches(benchmark, steps, work.batch_size)(order_key, task)
    used: list[int] = []
    for start, stop in pairwise([0, *epoch_ends(benchmark.train_size, steps, work.batch_size)]):
        for piece in range(start, stop, check_every):
            batches = rows[piece : min(piece + check_every, stop)]
            images, labels = _batches(benchmark)(work.train, task, batches, order_key, piece)
            check = check_epochs and piece == start
            try:
                state, slots = learner.learn(state, work.weights, work.stats, images, labels, check)
            except DivergedError as error:
                raise divergence(work.parts, number, piece + error.batch, error.loss) from None
            used += slots.tolist()
    return state, used


def _accuracy(work: Work, state: State, number: int, slot: int) -> float:
    """Return the accuracy on a task with the mask of a slot; 0 if no slot was trained."""
    if slot < 0:
        return 0.0
    task = jax.tree.map(lambda leaf: leaf[number], work.tasks)
    trained = state.slots[slot]
    return float(_slot_accuracy(work.parts)(work.weights, trained.params, trained.stats, work.test, task))


@cache
def _batches(benchmark: Benchmark) -> Callable[..., Any]:
    """Return the jitted function that makes batches of a task from the rows of the data set."""

    def show(split: Any, task: Any, batches: Any, order_key: Any, first: Any) -> tuple[jax.Array, jax.Array]:
        def batch(numbered: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
            step, rows = numbered
            keys = augmentation_keys(order_key, step, np.arange(len(rows)))
            return benchmark.samples(split, task, rows, True, keys)

        return jax.lax.map(batch, (first + np.arange(len(batches)), batches))

    return jax.jit(show)


@cache
def _slot_accuracy(parts: Parts) -> Callable[..., Any]:
    """Return the jitted function that measures the accuracy on a task with a slot."""

    def accuracy(weights: Any, params: Any, stats: Any, test: Any, task: Any) -> jax.Array:
        effective = parts.method.training_weights(weights, params)
        return classification.accuracy(parts.net, parts.benchmark, test, effective, stats, task)

    return jax.jit(accuracy)
