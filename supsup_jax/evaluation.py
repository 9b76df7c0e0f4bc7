"""Accuracy of every learned task, with the task given or inferred.

With the task inferred, there are two protocols. *Per batch* is the paper's: one pick for every batch of 128 test
images. *Per image* is harder and closer to real use: one pick for every image. With unshared labels (scenario GNu) a
wrong task cannot give a right answer, so a wrong pick counts its whole batch as wrong. With shared labels (GNs, NNs)
an answer is right if its label is right, whatever task was inferred.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from supsup_jax import inference
from supsup_jax.classification import correct, is_right
from supsup_jax.data import Benchmark, HeldOut
from supsup_jax.inference import Search
from supsup_jax.inference.padded import padded, pick_among
from supsup_jax.inference.recovery import Recovery
from supsup_jax.methods import Method
from supsup_jax.metrics import standard_error
from supsup_jax.model import Model
from supsup_jax.networks import Stats, Weights, has_convolutions
from supsup_jax.system import backend, devices, numerics
from supsup_jax.system.progress import Progress
from supsup_jax.training import shuffle


@dataclass(frozen=True)
class Protocol:
    """Protocol for inferring the task of test images.

    Attributes:
        infer: the search with its objective, or the recovery of a mask from a memory; `None` if tasks are always given.
        batch_size: number of images in a batch, all of one task; 128 in the paper, 64 for HopSupSup.
        images_per_pick: number of images of a batch, from the first, that one pick uses: 1, or 128 for the full batch.
        images_per_task: number of test images of each task for the per-image protocol.
        shared_labels: whether an answer with the right label counts as right, whatever task was inferred (GNs, NNs).
        sample: the fraction of each task's picks to make, above 0; at least two are made. They are the first ones in
            the order of the test images, which the seed and the task's number draw, so they are a random sample.
    """

    infer: Search | Recovery | None
    batch_size: int = 128
    images_per_pick: int = 1
    images_per_task: int = 64
    shared_labels: bool = False
    sample: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.images_per_pick <= self.batch_size:
            raise ValueError(f"images_per_pick {self.images_per_pick}: must be from 1 to batch_size {self.batch_size}")
        if not 0 < self.sample <= 1:
            raise ValueError(f"sample {self.sample}: must be above 0 and at most 1")

    def sampled(self, picks: int) -> int:
        """Return the number of picks to make, given that of a full evaluation."""
        return min(picks, max(2, math.ceil(round(self.sample * picks, 9))))  # 0.07 * 100 is above 7


class Evaluation(NamedTuple):
    """Measurements over the tasks learned so far. Accuracies are fractions, one for each task.

    If tasks are always given, all fields except `given` are `None`.

    Attributes:
        given: accuracy with the task given (GG).
        inferred: accuracy by the paper's protocol, with the task inferred once per batch (GNu, GNs).
        inferred_per_image: accuracy with the task inferred for every image.
        picked: fraction of batches whose task was inferred correctly.
        picked_per_image: fraction of images whose task was inferred correctly.
        confusion: counts of batches, `(true task, inferred task)`.
        checked: number of batches whose task was also inferred by an exact search; `None` if the search is exact.
        differing: number of these batches for which the two searches differ.
        sampled: fraction of the batches whose task was inferred; `None`, like the errors, if it was for all of them.
        inferred_error: standard error of `inferred`, with the batches that were not sampled unknown.
        inferred_per_image_error: standard error of `inferred_per_image`, with the images of a full evaluation that
            were not sampled unknown.
    """

    given: Float[np.ndarray, " tasks"]
    inferred: Float[np.ndarray, " tasks"] | None = None
    inferred_per_image: Float[np.ndarray, " tasks"] | None = None
    picked: Float[np.ndarray, " tasks"] | None = None
    picked_per_image: Float[np.ndarray, " tasks"] | None = None
    confusion: Int[np.ndarray, "tasks entries"] | None = None
    checked: Int[np.ndarray, " tasks"] | None = None
    differing: Int[np.ndarray, " tasks"] | None = None
    sampled: Float[np.ndarray, " tasks"] | None = None
    inferred_error: Float[np.ndarray, " tasks"] | None = None
    inferred_per_image_error: Float[np.ndarray, " tasks"] | None = None


class _Measured(NamedTuple):
    """Measurements of one task; with a leading task axis, of all tasks.

    Attributes:
        is_right: which test images are classified correctly with the task given, in the fixed order.
        size: the number of test images.
        picks: the task inferred for every batch; batches beyond the size do not count.
        image_picks: the task inferred for each of the first images.
        is_right_picked: which test images are classified correctly by the task inferred for their batch.
        image_is_right: which of the first images are classified correctly by the task inferred for them.
        exact_picks: the tasks that the exact search infers for the first batches.
    """

    is_right: Any
    size: Any
    picks: Any = None
    image_picks: Any = None
    is_right_picked: Any = None
    image_is_right: Any = None
    exact_picks: Any = None


@numerics.with_fixed_flags
def evaluate(
    model: Model, test: HeldOut, protocol: Protocol, *, entries: Int[np.ndarray, " tasks"] | None = None
) -> Evaluation:
    """Evaluate tasks, inferring them among the tasks of the model.

    It is compiled once for all numbers of few tasks, and once for each larger number.

    Args:
        model: the tasks among which to infer.
        test: the tasks and their test images; tasks beyond the entries are ignored.
        protocol: how the task is inferred.
        entries: for each task its number in the model, or -1 for a task without an entry, whose images all count as
            wrong; by default the tasks are numbered from 0.
    """
    progress = Progress("evaluating", model.num_tasks if entries is None else len(entries), "tasks")
    return concatenate(
        progress.track(evaluate_in_parts(model, test, protocol, entries=entries), lambda part: len(part.given))
    )


def evaluate_in_parts(
    model: Model, test: HeldOut, protocol: Protocol, *, entries: Int[np.ndarray, " tasks"] | None = None, first: int = 0
) -> Iterator[Evaluation]:
    """Evaluate tasks as `evaluate` does, in parts of a few seconds.

    Args:
        model: see `evaluate`.
        test: see `evaluate`.
        protocol: see `evaluate`.
        entries: see `evaluate`.
        first: the first task to evaluate; earlier tasks are skipped.

    Yields:
        The evaluations of consecutive tasks, in order.
    """
    num_tasks, benchmark = model.num_tasks, test.benchmark
    if entries is None:
        entries = np.arange(num_tasks)
    count = len(entries)
    stats = jax.tree.map(lambda leaf: leaf[:num_tasks], model.stats)
    tasks = test.numbers[:count], on_host(test.tasks, count)
    batches = protocol.sampled(-(-benchmark.test_size // protocol.batch_size))
    picks_per_task = batches + protocol.sampled(protocol.images_per_task)
    separate, bank = _has_separate_adapters(protocol, model.method), model.bank
    model = dataclasses.replace(model, stats=stats, bank={} if separate else bank)
    memory = inference.memory(model.weights, picks_per_task)
    if isinstance(protocol.infer, Search) and protocol.infer.uses_counts:
        model = padded(model.with_counts(), protocol.infer)
    model = _sharded_if_large(model)
    settings = {"bytes_per_task": memory, "is_sharded": model.shards is not None}
    run = _over_tasks(model.method, benchmark, protocol, **settings)
    samples = np.int32(num_tasks), test.samples, orders_key(test.seed)
    shared = (model, *model.shards.replicate(samples)) if model.shards else devices.replicate((model, *samples))
    capacity = devices.tasks_at_once(memory, has_convolutions(model.weights))
    places = min(capacity, count) if model.num_tasks == num_tasks else capacity
    for part in devices.parts(first, count, capacity, is_fixed=jax.process_count() > 1):
        adapters = jax.tree.map(lambda leaf, part=part: np.asarray(leaf)[entries[part]], bank) if separate else {}
        numbered = jax.tree.map(lambda leaf, part=part: leaf[part], tasks)
        measured = run(shared, (entries[part], adapters, *numbered), places)
        yield _summary(measured, entries[part], num_tasks, protocol)


def concatenate(parts: Iterable[Evaluation]) -> Evaluation:
    """Concatenate the evaluations of one or more parts."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def orders_key(seed: int) -> Key[Array, ""]:
    """Return the key of the test images' order; the task's number is folded into it."""
    return jax.random.fold_in(numerics.key(seed), 2)


def on_host(tasks: Any, count: int) -> Any:
    """Return the descriptions of the first tasks on the host, where slicing them compiles no program for each size."""
    return jax.tree.map(lambda leaf: leaf[:count], jax.device_get(tasks))


def _has_separate_adapters(protocol: Protocol, method: Method) -> bool:
    """Return whether a device gets only its tasks' adapters: they are stacked, and nothing is inferred."""
    return protocol.infer is None and method.stacks


@cache
def _over_tasks(
    method: Method, benchmark: Benchmark, protocol: Protocol, *, bytes_per_task: int, is_sharded: bool
) -> Callable[..., Any]:
    """Return the jitted function that evaluates tasks, the same one for equal arguments."""
    places, batch = benchmark.test_size, protocol.batch_size
    starts = np.arange(0, places, batch)
    starts, num_images = starts[: protocol.sampled(len(starts))], protocol.sampled(protocol.images_per_task)
    separate = _has_separate_adapters(protocol, method)

    def one_task(shared: Any, described: Any) -> _Measured:
        model, num_tasks, test, orders = shared
        entry, adapter, number, task = described

        def as_entry(entry: Array) -> tuple[Weights, Stats]:
            weights = method.effective_weights(model.weights, adapter) if separate else model.effective_weights(entry)
            return weights, model.task_stats(entry)

        size = benchmark.size(task, train=False)
        order = shuffle(jax.random.fold_in(orders, number), places, size)
        right = correct(model.net, benchmark, test, *as_entry(jnp.maximum(entry, 0)), task)[order]
        measured = _Measured(right & (entry >= 0), jnp.asarray(size))
        if not isinstance(protocol.infer, Search):
            return measured
        search = protocol.infer.for_one_task()

        def infer(rows: Array, images_per_pick: int, search: Search = search) -> Array:
            images, _ = benchmark.samples(test, task, rows, train=False)
            return pick_among(search, model, num_tasks, images, images_per_pick)

        # If the last batch is shorter than a pick needs, its first images are repeated.
        lengths = jnp.clip(size - starts, 1, batch)[:, None]
        batch_rows = order[jnp.minimum(starts[:, None] + np.arange(batch)[None] % lengths, places - 1)]
        pick_rows = batch_rows[:, : protocol.images_per_pick].reshape(-1)
        image_rows = order[:num_images]
        if protocol.images_per_pick == 1:  # one call for both: it compiles and runs faster than two
            picks = infer(jnp.concatenate([pick_rows, image_rows]), 1)
            picks, image_picks = picks[: len(starts)], picks[len(starts) :]
        else:
            picks, image_picks = infer(pick_rows, protocol.images_per_pick), infer(image_rows, 1)
        measured = measured._replace(picks=picks, image_picks=image_picks)
        if check := search.check():
            exact, number = check
            rows = pick_rows[: number * protocol.images_per_pick]
            measured = measured._replace(exact_picks=infer(rows, protocol.images_per_pick, exact))
        if not protocol.shared_labels:
            return measured

        def right_as(pick_and_rows: tuple[Array, Array]) -> Array:
            pick, rows = pick_and_rows
            return is_right(model.net, *as_entry(pick), *benchmark.samples(test, task, rows, train=False))

        return measured._replace(
            is_right_picked=jax.lax.map(right_as, (picks, batch_rows)).reshape(-1)[:places],
            image_is_right=jax.lax.map(right_as, (image_picks, image_rows[:, None])).reshape(-1),
        )

    if is_sharded:
        return devices.in_turn(one_task)
    return devices.over_tasks(one_task, bytes_per_task, to_host=True)


def _sharded_if_large(model: Model) -> Model:
    """Return the model with its bank divided among the accelerators of this process if one cannot hold it."""
    is_divisible = backend.is_accelerator() and jax.local_device_count() > 1 and model.method.has_masks
    if model.shards is not None or not is_divisible or devices.fits(backend.num_bytes(model.bank)):
        return model
    return model.sharded(jax.local_devices())


def _summary(
    measured: _Measured, entries: Int[np.ndarray, " tasks"], num_entries: int, protocol: Protocol
) -> Evaluation:
    """Return the evaluation of some tasks, with right answers counted by both protocols."""
    sizes = measured.size[:, None]
    given = measured.is_right.sum(1) / measured.size
    if measured.picks is None:
        return Evaluation(given)
    starts = np.arange(measured.picks.shape[1]) * protocol.batch_size
    places = np.arange(measured.is_right.shape[1])[: len(starts) * protocol.batch_size]  # all, or those of the sample
    is_right, of_image, is_used = measured.is_right[:, : len(places)], places // protocol.batch_size, places < sizes
    batches, images = starts < sizes, np.arange(measured.image_picks.shape[1]) < sizes

    truth = entries[:, None]
    batch_hit, image_hit = (measured.picks == truth) & batches, (measured.image_picks == truth) & images
    if measured.is_right_picked is None:  # a wrong task cannot give a right answer
        right = is_right & batch_hit[:, of_image]
        image_right = measured.is_right[:, : image_hit.shape[1]] & image_hit
    else:
        right, image_right = measured.is_right_picked & is_used, measured.image_is_right & images

    checked = differing = None
    if measured.exact_picks is not None:
        counts = batches[:, : measured.exact_picks.shape[1]]
        different = (measured.picks[:, : counts.shape[1]] != measured.exact_picks) & counts
        checked, differing = counts.sum(1), different.sum(1)

    sampled: dict[str, np.ndarray] = {}
    if protocol.sample < 1:
        totals = -(-measured.size // protocol.batch_size), np.minimum(measured.size, protocol.images_per_task)
        sampled = {
            "sampled": batches.sum(1) / totals[0],
            "inferred_error": standard_error(right, is_used, protocol.batch_size, totals[0]),
            "inferred_per_image_error": standard_error(image_right, images, 1, totals[1]),
        }

    confusion = np.zeros((len(entries), num_entries), np.int64)
    tasks = np.broadcast_to(np.arange(len(entries))[:, None], batches.shape)
    np.add.at(confusion, (tasks[batches], measured.picks[batches]), 1)
    return Evaluation(
        given=given,
        inferred=right.sum(1) / is_used.sum(1),
        inferred_per_image=image_right.sum(1) / images.sum(1),
        picked=batch_hit.sum(1) / batches.sum(1),
        picked_per_image=image_hit.sum(1) / images.sum(1),
        confusion=confusion,
        checked=checked,
        differing=differing,
        **sampled,
    )
