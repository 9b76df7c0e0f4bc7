"""Scenario GG for tasks that use all devices: the devices share the batches, and images are loaded task by task.

A task is learned in pieces of a few seconds. Between two pieces the run can be stopped. It then saves the partly
learned task, and can resume it on any number of devices and hosts.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from statistics import fmean
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from supsup_jax import classification, evaluation
from supsup_jax.data import Benchmark, Dataset, Images, Samples
from supsup_jax.data.tasks import Rows
from supsup_jax.methods import Carry, Method, Phase
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.scenarios.feeding import (
    Feed,
    Piece,
    Resident,
    Share,
    Streamed,
    batches_of,
    fits,
    load,
    local_rows,
    unreadable_rows,
)
from supsup_jax.scenarios.given import finite_results
from supsup_jax.scenarios.work import Measured, Parts, Results, Snapshot, Unfinished, Work, divergence
from supsup_jax.system import devices, hosts, interruption
from supsup_jax.training import (
    Learned,
    Learner,
    Progress,
    Start,
    all_finite,
    augmentation_keys,
    drawn_batches,
    keys_of,
    task_key,
)

# Approximate duration of a piece of training in seconds, so that a request to stop is noticed soon.
_PIECE = 5.0

# Maximum number of seconds between two saves of a partly learned task.
_SAVE_AFTER = 600.0


@dataclass
class _Task:
    """A task in training.

    Attributes:
        done: number of steps done.
        progress: everything that training has changed.
        losses: mean loss of each finished epoch.
        accuracies: accuracy after each finished epoch.
        epoch: losses of the steps of the current epoch.
        seconds: training time before this process resumed the task.
    """

    done: int
    progress: Progress
    losses: list[float]
    accuracies: list[float]
    epoch: list[float] = field(default_factory=list)
    seconds: float = 0.0


def learn(work: Work) -> Iterator[Results]:
    """Learn the remaining tasks one after another, each on all devices of all hosts.

    Yields:
        One task at a time.

    Raises:
        KeyboardInterrupt: if a stop was requested; the partly learned task is saved first.
        UserError: if a task diverges.
    """
    method = work.parts.method
    for index in range(work.num_learned, work.num_tasks):
        number = work.first_task + index
        in_turn = method.in_turn(number)
        (phase,) = method.phases(number)
        programs = _programs(work.parts, phase)
        init_key, order_key = keys_of(task_key(work.seed, number))
        start, progress = programs.begin(work.weights, work.stats, init_key, work.carry())
        task = _resume(work, number, progress)
        started = time.perf_counter() - task.seconds
        _train(work, index, programs, start, order_key, task, started=started)
        learned = Learned(
            *programs.finish(start, task.progress, work.carry()),
            loss=np.array(task.losses),
            accuracy=np.array(task.accuracies),
            diverged=np.array(work.parts.steps),
        )
        if learned.weights is not None:
            work.weights = learned.weights
        stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], learned._replace(weights=None, carry=None))
        stacked = stacked._replace(weights=learned.weights, carry=learned.carry if in_turn else None)
        yield from finite_results(work, stacked, number, time.perf_counter() - started)


def evaluate(work: Work, snapshot: Snapshot, num_tasks: int, first: int = 0) -> Iterator[Measured]:
    """Evaluate tasks `first` to `num_tasks - 1`, each on all devices."""
    model = snapshot.model
    for index in range(first, num_tasks):
        task = jax.tree.map(lambda leaf, index=index: leaf[index], work.tasks)
        test, share = _test_of(work, work.first_task + index, task)
        effective = _effective_weights(model.method)(model.weights, model.bank, index)
        stats = jax.tree.map(lambda leaf, index=index: leaf[index], model.stats)
        accuracy = _measure(work)(share, effective, stats, test, local_rows(task))
        yield Measured(evaluation.Evaluation(np.array([accuracy])))


def _resume(work: Work, number: int, progress: Progress) -> _Task:
    """Return the saved state of a partly learned task, or its initial state."""
    saved = work.pending.restore_unfinished(number, jax.eval_shape(lambda tree: tree, progress))
    if saved is None:
        return _Task(0, progress, [], [])
    work.report(f"resuming task {number} after {saved.done:,} steps")
    return _Task(saved.done, devices.replicate(saved.arrays), **saved.measured)


def _train(
    work: Work, index: int, programs: "_Programs", start: Start, order_key: Any, task: _Task, *, started: float
) -> None:
    """Train for the remaining steps of a task.

    Raises:
        KeyboardInterrupt: if a stop was requested; the partly learned task is saved first.
        UserError: if the task diverges.
    """
    parts, batch_size, number = work.parts, work.batch_size, work.first_task + index
    description = jax.tree.map(lambda leaf: leaf[index], work.tasks)
    rows = local_rows(description)
    test, test_share = _test_of(work, number, description)
    per_epoch = -(-parts.benchmark.train_size // batch_size)
    batches = np.asarray(drawn_batches(parts.benchmark, parts.steps, batch_size)(order_key, description))
    feed = _feed(work, number, description, batches, task.done)
    at_once, saved_at = 1, time.perf_counter()
    while task.done < parts.steps:
        epoch_end = min(task.done - task.done % per_epoch + per_epoch, parts.steps)
        piece_started = time.perf_counter()
        piece = feed.piece(task.done, min(task.done + at_once, epoch_end))
        task.progress, losses = programs.advance(start, task.progress, piece, rows, order_key)
        task.epoch += np.asarray(losses)[piece.start : piece.stop].tolist()
        seconds = time.perf_counter() - piece_started
        steps = piece.stop - piece.start
        task.done += steps
        if task.done == epoch_end and not programs.finite(task.progress):
            task.epoch[-1] = math.nan
        if not math.isfinite(sum(task.epoch)):
            break
        if task.done == epoch_end:
            task.losses.append(fmean(task.epoch))
            effective = programs.effective(start, task.progress)
            task.accuracies.append(_measure(work)(test_share, effective, task.progress.stats, test, rows))
            task.epoch = []
        done = f"task {number}: {task.done:,} of {parts.steps:,} steps"
        accuracy = f", accuracy {100 * task.accuracies[-1]:.2f} %" if task.accuracies else ""
        work.report(done + accuracy, steps / seconds)
        save_is_due = time.perf_counter() - saved_at > _SAVE_AFTER
        decided = max(1, int(_PIECE * steps / seconds)), save_is_due
        at_once, save_is_due = hosts.broadcast(lambda decided=decided: decided)
        stop_requested = hosts.any_process(interruption.is_requested())
        if task.done < parts.steps and (stop_requested or save_is_due):
            _save_unfinished(work, number, task, time.perf_counter() - started)
            saved_at = time.perf_counter()
        if stop_requested:
            break
    feed.close()
    _report_unreadable(work, number, work.dataset.train, feed.unreadable())
    if not math.isfinite(sum(task.epoch)):
        work.pending.forget_unfinished()
        first = next(step for step, loss in enumerate(task.epoch) if not math.isfinite(loss))
        raise divergence(parts, number, task.done - len(task.epoch) + first, task.epoch[first])
    if task.done < parts.steps:
        raise interruption.kind()


def _save_unfinished(work: Work, number: int, task: _Task, seconds: float) -> None:
    measured = {"losses": task.losses, "accuracies": task.accuracies, "epoch": task.epoch, "seconds": seconds}
    work.pending.save_unfinished(Unfinished(number, task.done, jax.device_get(task.progress), measured))


def _feed(work: Work, number: int, task: Rows, batches: Int[np.ndarray, "steps batch"], done: int) -> Feed:
    """Return the source of the remaining batches of a task."""
    train, places = work.dataset.train, work.parts.benchmark.train_size
    rows, cache_size = np.asarray(task.train)[: int(task.train_size)], work.cache_size
    if fits(places, cache_size):
        split = load(train, rows, places, cache_size, _decoding(work, number))
        return Resident(split, rows, batches, -(-places // work.batch_size))
    work.report(f"task {number} does not fit on a device: its images are decoded for every batch")
    return Streamed(train, rows, batches[done:], cache_size)


def _test_of(work: Work, number: int, task: Rows) -> tuple[Samples, Share]:
    """Return the test samples of a task on all devices, and the share of each device."""
    parts = work.parts
    split, share, unreadable = test_of(
        parts.benchmark, work.dataset, task, parts.protocol.batch_size, work.cache_size, _decoding(work, number)
    )
    _report_unreadable(work, number, work.dataset.test, unreadable)
    return split, share


def _decoding(work: Work, number: int) -> Callable[[int, int], None]:
    """Return a function that reports the number of decoded images at most once per second."""
    reported = time.perf_counter()

    def progress(done: int, of: int) -> None:
        nonlocal reported
        if done == of or time.perf_counter() - reported > 1:
            work.report(f"decoding images of task {number}: {done:,} of {of:,}")
            reported = time.perf_counter()

    return progress


def _report_unreadable(work: Work, number: int, split: Samples, rows: set[int]) -> None:
    """Report the images of a task that are unreadable, and add their names to the list on disk."""
    assert isinstance(split.images, Images)
    if rows and hosts.is_first():
        path = work.pending.note_unreadable([split.images.name(row) for row in sorted(rows)])
        work.report(f"{len(rows)} images of task {number} cannot be read and are left out: see {path}")


def _measure(work: Work) -> Callable[[Share, Weights, Stats, Samples, Rows], float]:
    """Return the function that measures the accuracy on a task."""
    return measure(work.parts.net, work.parts.benchmark)


def test_of(
    benchmark: Benchmark,
    dataset: Dataset,
    task: Rows,
    batch_size: int,
    cache_size: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Samples, Share, set[int]]:
    """Return the test samples of a task on all devices, the share of each device, and the rows that are unreadable.

    Args:
        benchmark: the benchmark.
        dataset: the data set, with images on disk.
        task: description of the task.
        batch_size: images per batch.
        cache_size: shorter side, in pixels, to which images are resized.
        progress: called with the number of decoded images, and the number to decode.
    """
    rows, places = np.asarray(task.test)[: int(task.test_size)], benchmark.test_size
    split = load(dataset.test, rows, places, cache_size, progress)
    share = batches_of(places, batch_size, len(rows))
    return devices.replicate(split), share, unreadable_rows(split, rows)


class _Programs(NamedTuple):
    """Compiled functions that learn a task.

    Attributes:
        begin: returns the initial state of a task.
        advance: trains for some steps; also returns their losses, one entry per batch of the share.
        finite: returns whether all that training has changed is finite.
        effective: returns the effective weights of a task in training.
        finish: returns the result of a task; see `Learner.finish`.
    """

    begin: Callable[..., tuple[Start, Progress]]
    advance: Callable[[Start, Progress, Piece, Rows, Any], tuple[Progress, Any]]
    finite: Callable[[Progress], Any]
    effective: Callable[[Start, Progress], Weights]
    finish: Callable[..., tuple[Any, ...]]


@cache
def _programs(parts: Parts, phase: Phase) -> _Programs:
    """Return the functions that learn tasks with or without training the base weights; cached by their arguments."""
    net, method, benchmark = parts.net, parts.method, parts.benchmark
    learner = Learner(net, method, parts.optimizer_of(phase), phase, average=devices.average)

    @jax.jit
    def begin(weights: Weights, stats: Stats, key: Any, carry: Carry) -> tuple[Start, Progress]:
        start = learner.start(weights, key, carry)
        return start, learner.begin(start, stats)

    def updates(share: Share, common: Any) -> tuple[Progress, jax.Array]:
        start, progress, common_split, task, order_key, first, begins, ends = common
        split: Any = common_split if share.split is None else share.split

        def step(index: jax.Array, carry: tuple[Progress, jax.Array]) -> tuple[Progress, jax.Array]:
            progress, losses = carry
            rows = share.rows[index]
            keys = augmentation_keys(order_key, first + index, share.places)
            images, labels = benchmark.samples(split, task, rows, True, keys)
            counts = share.counts[index] * split.images.readable[rows]
            share_made = (first + index).astype(jnp.float32) / parts.steps
            progress, loss = learner.update(start, progress, images, labels, counts, share_made)
            return progress, losses.at[index].set(loss)

        return jax.lax.fori_loop(begins, ends, step, (progress, jnp.zeros(len(share.rows))))

    on_devices = devices.data_parallel(updates)

    def advance(start: Start, progress: Progress, piece: Piece, task: Rows, order_key: Any) -> Any:
        steps = np.int32(piece.first), np.int32(piece.start), np.int32(piece.stop)
        return on_devices(piece.share, (start, progress, piece.split, task, order_key, *steps))

    finite = jax.jit(lambda progress: all_finite((progress.learned, progress.stats)))
    return _Programs(
        begin,
        advance,
        finite,
        jax.jit(learner.effective),
        jax.jit(partial(learner.finish, trains_weights=phase.trains_weights)),
    )


@cache
def measure(net: Network, benchmark: Benchmark) -> Callable[[Share, Weights, Stats, Samples, Rows], float]:
    """Return the function that measures the accuracy on a task; cached by its arguments."""

    def hits(share: Share, common: Any) -> jax.Array:
        effective, stats, split, task = common

        def batch(numbered: tuple[jax.Array, jax.Array]) -> jax.Array:
            rows, counts = numbered
            images, labels = benchmark.samples(split, task, rows, train=False)
            right = classification.is_right(net, effective, stats, images, labels)
            counts = counts * split.images.readable[rows]
            return jnp.stack([(right * counts).sum(), counts.sum()])

        return devices.average(jax.lax.map(batch, (share.rows, share.counts)).sum(0))

    hits_on_devices = devices.data_parallel(hits)

    def accuracy(share: Share, effective: Weights, stats: Stats, split: Samples, task: Rows) -> float:
        right, images = np.asarray(hits_on_devices(share, (effective, stats, split, task)))
        return float(right / max(images, 1e-9))

    return accuracy


@cache
def _effective_weights(method: Method) -> Callable[[Weights, Any, int], Weights]:
    """Return the jitted function that computes the effective weights of a learned task."""
    return jax.jit(lambda weights, bank, index: method.effective_weights(weights, method.unpack(bank, index)))
