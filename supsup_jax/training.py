"""One task, learned: a pure function that is compiled once and mapped over chunks of tasks.

The data lies on the device; batches are drawn, shown as the task shows them and normalised inside the loop.
Randomness is a function of (seed, task) alone, so task 7 is the same alone or among 250.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from supsup_jax.data import Benchmark, Samples, Tasks
from supsup_jax.methods import Adapter, Carry, Method, Params
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.optimizers import Optimizer
from supsup_jax.system import numerics

Validate = Callable[[Weights, Stats, Tasks], Float[Array, ""]]
"""From effective weights, statistics and the task's description to an accuracy on held-out data."""


class Learned(NamedTuple):
    """What training a task gives; under a map over tasks every leaf has a leading task axis.

    Attributes:
        adapter: what is kept of the task.
        weights: the base weights as the task leaves them; `None` if it does not train them.
        carry: what it leaves for later tasks to start from; `None` unless it is learned in turn.
        stats: its batch-norm statistics.
        loss: mean cross-entropy of each epoch's batches, in nats; no number where what is learned is none any more.
        accuracy: accuracy on the test set after each epoch, a fraction.
        diverged: the first update, counted from 0, whose loss is not finite, or the last of the first epoch that leaves
            something else that is not; as many as there are updates where training has not diverged.
    """

    adapter: Adapter
    weights: Weights | None
    carry: Carry | None
    stats: Stats
    loss: Float[Array | np.ndarray, "*tasks epochs"]
    accuracy: Float[Array | np.ndarray, "*tasks epochs"]
    diverged: Int[Array | np.ndarray, "*tasks"]


def task_key(seed: int, task: int | Int[Array, ""]) -> Key[Array, ""]:
    """The key of a task: independent of every other task's, and of the weights'."""
    return jax.random.fold_in(jax.random.fold_in(numerics.key(seed), 1), task)


def weights_key(seed: int) -> Key[Array, ""]:
    """The key of the network's weights."""
    return jax.random.fold_in(numerics.key(seed), 0)


class Shared(NamedTuple):
    """What all tasks have in common.

    Attributes:
        weights: the base weights.
        stats: the batch-norm statistics that a task starts with.
        train: the training samples of the data set.
    """

    weights: Weights
    stats: Stats
    train: Samples


class Start(NamedTuple):
    """What a task starts from.

    Attributes:
        weights: the base weights.
        params: what it trains.
    """

    weights: Weights
    params: Params


class Progress(NamedTuple):
    """A task that is being learned: what each update changes.

    Attributes:
        learned: the `weights`, if they are trained, and its `params`, if they are trained.
        optimizer: the optimiser's state.
        stats: its batch-norm statistics.
    """

    learned: dict[str, Any]
    optimizer: PyTree[Any]
    stats: Stats


@dataclass(frozen=True)
class Learner:
    """How a task is learned.

    Attributes:
        net: the network.
        method: what the task trains, and how that becomes effective weights.
        optimizer: changes what is learned.
        trains_weights: whether the base weights are learned, beside the task's parameters.
        average: the mean of a pytree over all that share a batch; by default one has all of it.
    """

    net: Network
    method: Method
    optimizer: Optimizer
    trains_weights: bool = False
    average: Callable[[Any], Any] = lambda tree: tree

    def start(self, weights: Weights, key: Key[Array, ""], carry: Carry | None = None) -> Start:
        """What a task starts from.

        Args:
            weights: the base weights.
            key: the first of the two that `keys_of` makes of the task's.
            carry: what the tasks before have left, if the method has any.
        """
        return Start(weights, self.method.init(key, weights, carry))

    def begin(self, start: Start, stats: Stats) -> Progress:
        """A task of which nothing is learned yet, given the statistics that tasks start from."""
        weights = start.weights if self.trains_weights else None
        learned: Any = {"weights": weights, "params": start.params if self.method.trains_params else None}
        return Progress(learned, self.optimizer.transformation().init(learned), stats)

    def now(self, start: Start, learned: dict[str, Any]) -> Start:
        """The base weights and the task's parameters, as they are now."""
        parts = zip(start, (learned["weights"], learned["params"]), strict=True)
        return Start(*(fixed if changed is None else changed for fixed, changed in parts))

    def effective(self, start: Start, progress: Progress) -> Weights:
        """The weights that the network runs with now."""
        return self.method.training_weights(*self.now(start, progress.learned))

    def update(
        self,
        start: Start,
        progress: Progress,
        images: Float[Array, "batch ..."],
        labels: Int[Array, " batch"],
        counts: Float[Array, " batch"] | None = None,
    ) -> tuple[Progress, Float[Array, ""]]:
        """One update, and the mean cross-entropy of its batch before it, in nats.

        Args:
            start: what the task started from.
            progress: how far it is.
            images: normalised images, or this part's share of them.
            labels: their labels.
            counts: how much each counts in the mean; by default all alike.
        """

        def loss(learned: Any) -> tuple[Array, Stats]:
            effective = self.method.training_weights(*self.now(start, learned))
            logits, stats = self.net.apply(effective, progress.stats, images, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            if counts is None:
                return losses.mean(), stats
            total = self.average(counts.sum())
            return (losses * counts).sum() / jnp.where(total > 0, total, 1), stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(progress.learned)
        value, stats, gradient = self.average((value, stats, gradient))
        update, state = self.optimizer.transformation().update(gradient, progress.optimizer, progress.learned)
        return Progress(optax.apply_updates(progress.learned, update), state, stats), value  # pyright: ignore

    def finish(
        self, start: Start, progress: Progress, carry: Carry | None
    ) -> tuple[Adapter, Weights | None, Carry | None, Stats]:
        """What came of a task, all its updates made: what `Learned` begins with.

        Args:
            start: what it started from.
            progress: how far it is.
            carry: what the tasks before had left, if it was learned in turn.
        """
        weights, params = self.now(start, progress.learned)
        carry = None if carry is None else self.method.next_carry(carry, params)
        return self.method.finalize(params, weights), progress.learned["weights"], carry, progress.stats


def all_finite(tree: PyTree[Any]) -> Bool[Array, ""]:
    """Whether all numbers are finite. A loss does not say so: a score that is no number keeps its weight out."""
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def not_finite(losses: Any) -> float:
    """The first of some losses that is not finite."""
    return next(float(loss) for loss in losses if not np.isfinite(loss))


@numerics.with_fixed_flags
def keys_of(task_key: Key[Array, ""]) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """Of a task's key, one for what it trains, and one for its batches."""
    init_key, order_key = jax.random.split(task_key)
    return init_key, order_key


@numerics.with_fixed_flags
def train_task(
    learner: Learner,
    task: Tasks,
    key: Key[Array, ""],
    *,
    shared: Shared,
    benchmark: Benchmark,
    steps: int,
    batch_size: int,
    validate: Validate,
    carry: Carry | None = None,
) -> Learned:
    """Learns one task; to be jitted, and mapped over tasks.

    Batches are drawn without replacement within an epoch, and across the end of one, so that all have one size.

    Args:
        learner: how the task is learned.
        task: describes the task.
        key: the task's key.
        shared: the base weights, and what else all tasks have in common.
        benchmark: shows samples as the task shows them.
        steps: updates.
        batch_size: samples an update.
        validate: called after each epoch.
        carry: what the tasks before have left, if the method has any.
    """
    init_key, order_key = keys_of(key)
    start = learner.start(shared.weights, init_key, carry)
    size = benchmark.size(task, train=True)
    batches = draw_batches(order_key, benchmark.train_size, size, steps, batch_size)

    def step(index: Array, state: tuple[Progress, Array, Array]) -> tuple[Progress, Array, Array]:
        progress, total, diverged = state
        keys = augmentation_keys(order_key, index, jnp.arange(batch_size))
        images, labels = benchmark.samples(shared.train, task, batches[index], True, keys)
        progress, loss = learner.update(start, progress, images, labels)
        return progress, total + loss, jnp.where(jnp.isfinite(loss), diverged, jnp.minimum(diverged, index))

    def epoch(progress: Progress, bounds: tuple[Array, Array]) -> tuple[Progress, tuple[Array, Array, Array]]:
        first, stop = bounds
        progress, total, diverged = jax.lax.fori_loop(first, stop, step, (progress, jnp.float32(0), jnp.int32(steps)))
        finite = all_finite((progress.learned, progress.stats)) & jnp.isfinite(total)
        loss = jnp.where(finite, total / (stop - first).astype(jnp.float32), jnp.nan)
        diverged = jnp.where(finite, diverged, jnp.minimum(diverged, stop - 1))
        accuracy = validate(learner.effective(start, progress), progress.stats, task)
        return progress, (loss, accuracy, diverged)

    ends = epoch_ends(benchmark.train_size, steps, batch_size)
    bounds = jnp.asarray([0, *ends[:-1]], jnp.int32), jnp.asarray(ends, jnp.int32)
    progress, (losses, accuracies, diverged) = jax.lax.scan(epoch, learner.begin(start, shared.stats), bounds)
    return Learned(*learner.finish(start, progress, carry), losses, accuracies, diverged.min())


def augmentation_keys(
    order_key: Key[Array, ""], step: int | Int[Array, ""], places: Int[Array | np.ndarray, " images"]
) -> Key[Array, " images"]:
    """The keys with which images of a batch are augmented.

    Args:
        order_key: what the task's batches are drawn with.
        step: the number of the update.
        places: of the images in the batch.
    """
    no_epoch = 2**32 - 1  # the shuffles of epochs are drawn with their numbers
    key = jax.random.fold_in(jax.random.fold_in(order_key, no_epoch), step)
    return jax.vmap(partial(jax.random.fold_in, key))(places)


def epoch_ends(samples: int, steps: int, batch_size: int) -> list[int]:
    """After how many updates each epoch ends; the last may be cut short."""
    per_epoch = -(-samples // batch_size)
    return [*range(per_epoch, steps, per_epoch), steps]


def shuffle(key: Key[Array, ""], places: int, size: int | Int[Array, ""]) -> Int[Array, " places"]:
    """The first `size` of so many rows in random order, then the rest; `size` need not be known when it is compiled."""
    if isinstance(size, int):
        return jax.random.permutation(key, places)
    return jnp.where(jnp.arange(places) < size, jax.random.uniform(key, (places,)), jnp.inf).argsort()


@numerics.with_fixed_flags
def draw_batches(
    key: Key[Array, ""], places: int, size: int | Int[Array, ""], steps: int, batch_size: int
) -> Int[Array, "steps batch"]:
    """The rows of every batch of a task: a fresh shuffle for each epoch, one after another.

    Args:
        key: a random key.
        places: the samples of the task, or of the largest.
        size: the samples of the task.
        steps: batches.
        batch_size: samples a batch.
    """
    # Where the size is not known, one task may have half the samples of another before its last shuffle comes again.
    fewest = size if isinstance(size, int) else places // 2
    epochs = jnp.arange(-(-steps * batch_size // fewest))
    shuffles = jax.lax.map(lambda epoch: shuffle(jax.random.fold_in(key, epoch), places, size), epochs)
    if isinstance(size, int):
        return shuffles.reshape(-1)[: steps * batch_size].reshape(steps, batch_size)
    positions = jnp.arange(steps * batch_size)
    return shuffles[positions // size, positions % size].reshape(steps, batch_size)


@cache
def drawn_batches(benchmark: Benchmark, steps: int, batch_size: int) -> Callable[[Key[Array, ""], Tasks], Array]:
    """The jitted function that draws the batches of a task as `draw_batches` does, given its key and description."""

    def draw(key: Key[Array, ""], task: Tasks) -> Array:
        return draw_batches(key, benchmark.train_size, benchmark.size(task, train=True), steps, batch_size)

    return jax.jit(draw)
