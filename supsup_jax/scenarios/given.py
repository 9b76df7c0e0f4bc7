"""Scenarios GG, GNu and GNs: the learner is told where a task ends.

Independent tasks are learned side by side, a chunk at a time; others in turn.
"""

import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import takewhile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supsup_jax import classification, evaluation
from supsup_jax.networks import has_convolutions
from supsup_jax.optimizers import Optimizer
from supsup_jax.scenarios.work import Measured, Parts, Results, Snapshot, Work, divergence
from supsup_jax.system import devices, interruption
from supsup_jax.training import Learned, Learner, Shared, not_finite, task_key, train_task


def learn(work: Work) -> Iterator[Results]:
    """Learns the tasks that are missing, side by side where they are independent.

    Yields:
        A chunk of tasks; if one of them diverges, those before it.

    Raises:
        UserError: if a task diverges.
    """
    method, place = work.parts.method, work.num_learned
    while place < work.num_tasks:
        places = _next_tasks(work, place)
        numbers = work.first_task + places
        first = int(numbers[0])
        work.report(f"learning tasks {first} to {numbers[-1]}" if len(numbers) > 1 else f"learning task {first}")
        started = time.perf_counter()
        keys = jax.vmap(lambda task: task_key(work.seed, task))(numbers)
        tasks = jax.tree.map(lambda leaf, places=places: leaf[places], work.tasks), keys
        if method.in_turn(first) or not work.side_by_side:
            learned = _in_turn(work, tasks, first, len(numbers))
        else:
            train = _side_by_side(work.parts, work.batch_size, has_convolutions(work.weights))
            shared = work.weights, work.stats, work.train, work.test, work.carry()
            learned = jax.block_until_ready(train(shared, tasks, work.tasks_at_once))
        yield from finite_results(work, learned, first, time.perf_counter() - started)
        place += len(learned.diverged)


def finite_results(work: Work, learned: Learned, first: int, seconds: float) -> Iterator[Results]:
    """Yields the tasks of a chunk before the first that diverged, if there are any.

    Args:
        work: the tasks to learn.
        learned: the chunk, stacked along a leading task axis.
        first: the number of its first task.
        seconds: training time of all of them.

    Raises:
        UserError: if one has diverged.
    """
    came = len(learned.diverged)
    if not work.parts.benchmark.test_size:
        learned = learned._replace(accuracy=np.full_like(learned.accuracy, np.nan))
    diverged = np.flatnonzero(learned.diverged < work.parts.steps)
    count = int(diverged[0]) if diverged.size else came
    if count:
        left = learned.weights, learned.carry
        kept = jax.tree.map(lambda leaf: leaf[:count], learned._replace(weights=None, carry=None))
        yield Results(kept._replace(weights=left[0], carry=left[1]), seconds / came)
    if count < came:
        step = int(learned.diverged[count])
        raise divergence(work.parts, first + count, step, not_finite(learned.loss[count]))


def evaluate(work: Work, snapshot: Snapshot, num_tasks: int, first: int = 0) -> Iterator[Measured]:
    """Evaluates the first `num_tasks` tasks but those before `first`, by the experiment's protocol."""
    model, test, protocol = snapshot.model, work.held_out, work.parts.protocol
    if work.parts.method.recovers:
        parts = evaluation.evaluate_recovery(model, test, protocol, truth=snapshot.masks, first=first)
        yield from (Measured(accuracies, paths) for accuracies, paths in parts)
    else:
        entries = np.arange(num_tasks)
        yield from map(Measured, evaluation.evaluate_in_parts(model, test, protocol, entries=entries, first=first))


def _next_tasks(work: Work, first: int) -> np.ndarray:
    """The places of the tasks of the next chunk: as many as possible that are learned alike.

    Where tasks change what earlier ones are evaluated with, a chunk ends where an evaluation is due.
    """
    method = work.parts.method
    stop = work.chunk_end(first, method.trains_weights(first) or not method.bank_grows)

    def how(task: int) -> tuple[bool, bool]:
        return method.in_turn(task), method.trains_weights(task)

    return np.array([*takewhile(lambda task: how(task) == how(first), range(first, stop))])


def _in_turn(work: Work, tasks: Any, first: int, count: int) -> Learned:
    """Learns tasks of which each starts from what the one before left.

    The first task that diverges leaves nothing, and is the last; a task during which an end was requested is the last,
    too.

    Args:
        work: the tasks to learn.
        tasks: descriptions and keys of the tasks of this chunk.
        first: the number of the first of them.
        count: how many they are.
    """
    trains_weights, in_turn = work.parts.method.trains_weights(first), work.parts.method.in_turn(first)
    train = in_turn_program(work.parts, work.batch_size, trains_weights)
    carry, learned = work.carry(), []
    for row in range(count):
        shared = work.weights, work.stats, work.train, work.test, carry
        one = train(shared, jax.tree.map(lambda leaf, row=row: leaf[row], tasks))
        learned.append(jax.device_get(one._replace(weights=None, carry=None)))
        if learned[-1].diverged < work.parts.steps:
            break
        carry = one.carry
        if one.weights is not None:
            work.weights = one.weights
        if interruption.asked():
            break
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *learned)
    return stacked._replace(weights=work.weights if trains_weights else None, carry=carry if in_turn else None)


@cache
def _side_by_side(parts: Parts, batch_size: int, convolutions: bool) -> Callable[..., Learned]:
    """The function that learns a chunk of independent tasks, as `devices.over_tasks` maps it.

    Args:
        parts: the experiment's parts.
        batch_size: samples of an update.
        convolutions: whether the network has any.
    """
    learn = _learner(parts, parts.optimizer, False, batch_size)
    # What independent tasks leave is what they found.
    return devices.over_tasks(lambda shared, one: learn(shared, one)._replace(carry=None), convolutions=convolutions)


@cache
def in_turn_program(parts: Parts, batch_size: int, trains_weights: bool) -> Callable[..., Learned]:
    """The function that learns one task in turn.

    Args:
        parts: the experiment's parts.
        batch_size: samples of an update.
        trains_weights: whether the base weights are learned with it.
    """
    optimizer = parts.weights_optimizer if trains_weights else parts.optimizer
    return jax.jit(_learner(parts, optimizer, trains_weights, batch_size))


def _learner(
    parts: Parts, optimizer: Optimizer, trains_weights: bool, batch_size: int
) -> Callable[[Any, Any], Learned]:
    """The function that learns one task, given what tasks share and what describes it."""

    def learn(shared: Any, one: Any) -> Learned:
        weights, stats, train, test, carry = shared
        task, key = one
        # A network of gains answers by the statistics of the batch, so batches are as large as in its evaluation.
        images_at_once = parts.protocol.batch_size if parts.method.recovers else None
        validate: Any = partial(
            classification.accuracy, parts.net, parts.benchmark, test, images_at_once=images_at_once
        )
        if not parts.benchmark.test_size:
            validate = _nothing_to_validate_on  # `finite_results` makes it NaN, which `jax_debug_nans` would find here
        return train_task(
            Learner(parts.net, parts.method, optimizer, trains_weights),
            task,
            key,
            shared=Shared(weights, stats, train),
            benchmark=parts.benchmark,
            steps=parts.steps,
            batch_size=batch_size,
            validate=validate,
            carry=carry,
        )

    return learn


def _nothing_to_validate_on(*_: Any) -> jax.Array:
    return jnp.float32(0)
