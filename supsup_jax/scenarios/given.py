"""Scenarios GG, GNu and GNs: task boundaries are given in training.

Independent tasks are learned side by side, one chunk at a time; other tasks are learned in turn.
"""

import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import takewhile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from supsup_jax import classification, evaluation
from supsup_jax.methods import Phase
from supsup_jax.recovery_evaluation import evaluate_recovery
from supsup_jax.scenarios.work import Measured, Parts, Results, Snapshot, Work, divergence
from supsup_jax.system import backend, devices, interruption
from supsup_jax.training import Learned, Learner, Shared, first_not_finite, task_key, train_task


def learn(work: Work) -> Iterator[Results]:
    """Learn the remaining tasks, side by side if they are independent.

    Yields:
        A chunk of tasks. If a task diverges, the tasks before it are yielded first.

    Raises:
        UserError: if a task diverges.
    """
    method, index = work.parts.method, work.num_learned
    described = jax.device_get(work.tasks)  # indexing it on the host compiles nothing
    while index < work.num_tasks:
        indices = _next_tasks(work, index)
        numbers = work.first_task + indices
        first = int(numbers[0])
        work.report(f"learning tasks {first} to {numbers[-1]}" if len(numbers) > 1 else f"learning task {first}")
        started = time.perf_counter()
        tasks = jax.tree.map(lambda leaf, indices=indices: leaf[indices], described), _keys(work.seed, numbers)
        if method.in_turn(first) or not work.side_by_side:
            learned = _in_turn(work, tasks, first, len(numbers))
        else:
            train = _side_by_side(work.parts, work.batch_size, method.phases(first))
            shared = work.weights, work.stats, work.train, work.test, work.carry()
            learned = jax.block_until_ready(train(shared, tasks, work.tasks_at_once))
        yield from finite_results(work, learned, first, time.perf_counter() - started)
        index += len(learned.diverged)


def finite_results(work: Work, learned: Learned, first: int, seconds: float) -> Iterator[Results]:
    """Yield the tasks of a chunk that precede the first diverged task.

    Args:
        work: the tasks to learn.
        learned: the chunk, stacked along a leading task axis.
        first: number of the first task of the chunk.
        seconds: training time of the whole chunk.

    Raises:
        UserError: if a task diverged.
    """
    total = len(learned.diverged)
    if not work.parts.benchmark.test_size:
        learned = learned._replace(accuracy=np.full_like(learned.accuracy, np.nan))
    diverged = np.flatnonzero(learned.diverged < work.parts.steps)
    count = int(diverged[0]) if diverged.size else total
    if count:
        stacked = jax.tree.map(lambda leaf: leaf[:count], learned._replace(weights=None, carry=None))
        yield Results(stacked._replace(weights=learned.weights, carry=learned.carry), seconds / total)
    if count < total:
        step = int(learned.diverged[count])
        raise divergence(work.parts, first + count, step, first_not_finite(learned.loss[count]))


def evaluate(work: Work, snapshot: Snapshot, num_tasks: int, first: int = 0) -> Iterator[Measured]:
    """Evaluate tasks `first` to `num_tasks - 1` by the protocol of the experiment."""
    model, test, protocol = snapshot.model, work.held_out, work.parts.protocol
    if work.parts.method.recovers:
        parts = evaluate_recovery(model, test, protocol, truth=snapshot.masks, first=first)
        yield from (Measured(accuracies, paths) for accuracies, paths in parts)
    else:
        entries = np.arange(num_tasks)
        yield from map(Measured, evaluation.evaluate_in_parts(model, test, protocol, entries=entries, first=first))


def _next_tasks(work: Work, first: int) -> np.ndarray:
    """Return the indices of the next chunk: as many tasks as possible that are learned in the same way.

    If later tasks change the weights or the memory that earlier tasks are evaluated with, a chunk ends at the next
    evaluation.
    """
    method = work.parts.method
    stop = work.chunk_end(first, method.trains_weights(first) or not method.bank_grows)

    def mode(task: int) -> tuple[bool, tuple[Phase, ...]]:
        return method.in_turn(task), method.phases(task)

    return np.array([*takewhile(lambda task: mode(task) == mode(first), range(first, stop))])


def _in_turn(work: Work, tasks: Any, first: int, count: int) -> Learned:
    """Learn tasks in turn, each from the carry of the task before it.

    Stops after the first task that diverges, whose weights and carry are discarded, and after a task during which a
    stop was requested.

    Args:
        work: the tasks to learn.
        tasks: descriptions and keys of the tasks of this chunk.
        first: number of the first of these tasks.
        count: number of tasks.
    """
    trains_weights, in_turn = work.parts.method.trains_weights(first), work.parts.method.in_turn(first)
    train = in_turn_program(work.parts, work.batch_size, work.parts.method.phases(first))
    carry, learned = work.carry(), []
    for row in range(count):
        shared = work.weights, work.stats, work.train, work.test, carry
        result = train(shared, jax.tree.map(lambda leaf, row=row: leaf[row], tasks))
        learned.append(jax.device_get(result._replace(weights=None, carry=None)))
        if learned[-1].diverged < work.parts.steps:
            break
        carry = result.carry
        if result.weights is not None:
            work.weights = result.weights
        if interruption.is_requested():
            break
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *learned)
    return stacked._replace(weights=work.weights if trains_weights else None, carry=carry if in_turn else None)


@partial(jax.jit, static_argnums=0)
def _keys(seed: int, numbers: Int[Array | np.ndarray, " tasks"]) -> Key[Array, " tasks"]:
    """Return the keys of tasks."""
    return jax.vmap(lambda task: task_key(seed, task))(numbers)


@cache
def _side_by_side(parts: Parts, batch_size: int, phases: tuple[Phase, ...]) -> Callable[..., Learned]:
    """Return the function that learns a chunk of independent tasks, mapped by `devices.over_tasks`.

    Args:
        parts: parts of the experiment.
        batch_size: images per step.
        phases: phases of the training of a task.
    """
    learn = _learner(parts, phases, batch_size)
    # Independent tasks do not change the carry. On an accelerator, masks are packed before they are moved to the host.
    return devices.over_tasks(
        lambda shared, task: learn(shared, task)._replace(carry=None),
        to_host=not backend.is_accelerator(),
    )


@cache
def in_turn_program(parts: Parts, batch_size: int, phases: tuple[Phase, ...]) -> Callable[..., Learned]:
    """Return the jitted function that learns one task.

    Args:
        parts: parts of the experiment.
        batch_size: images per step.
        phases: phases of the training of the task.
    """
    return jax.jit(_learner(parts, phases, batch_size))


def _learner(parts: Parts, phases: tuple[Phase, ...], batch_size: int) -> Callable[[Any, Any], Learned]:
    """Return the function that learns one task, given shared arrays, and the description and key of the task."""
    learners = [
        Learner(parts.net, parts.method, parts.optimizer_of(phase), phase, number)
        for number, phase in enumerate(phases)
    ]

    def learn(shared: Any, described: Any) -> Learned:
        weights, stats, train, test, carry = shared
        task, key = described
        # Outputs of a network of gains depend on the whole batch, so use the batch size of the evaluation.
        images_at_once = parts.protocol.batch_size if parts.method.recovers else None
        validate: Any = partial(
            classification.accuracy, parts.net, parts.benchmark, test, images_at_once=images_at_once
        )
        if not parts.benchmark.test_size:
            validate = _zero_accuracy  # `finite_results` turns it into NaN; NaN here would trip `jax_debug_nans`
        return train_task(
            learners,
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


def _zero_accuracy(*_: Any) -> jax.Array:
    return jnp.float32(0)
