"""Training of one task: a pure function that is compiled once and mapped over chunks of tasks.

The data is on the device. Inside the loop, batches are drawn, transformed for the task, and normalised. Randomness is a
function of (seed, task) alone, so task 7 is the same alone or among 250 tasks.
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
"""Maps effective weights, batch-norm statistics and the task's description to an accuracy on held-out data."""


class Learned(NamedTuple):
    """The result of training a task; under a map over tasks every leaf has a leading task axis.

    Attributes:
        adapter: the task's adapter.
        weights: the base weights after the task; `None` if the task does not train them.
        carry: the method's state for the tasks that follow; `None` unless tasks are learned in turn.
        stats: the task's batch-norm statistics.
        loss: mean cross-entropy of each epoch's batches, in nats; NaN if anything that is learned is not finite.
        accuracy: accuracy on the test set after each epoch, a fraction.
        diverged: the first update, counted from 0, whose loss is not finite, or the last update of the first epoch
            after which something else is not finite; the number of updates if training has not diverged.
    """

    adapter: Adapter
    weights: Weights | None
    carry: Carry | None
    stats: Stats
    loss: Float[Array | np.ndarray, "*tasks epochs"]
    accuracy: Float[Array | np.ndarray, "*tasks epochs"]
    diverged: Int[Array | np.ndarray, "*tasks"]


def task_key(seed: int, task: int | Int[Array, ""]) -> Key[Array, ""]:
    """Return the key of a task, independent of the keys of other tasks and of the weights."""
    return jax.random.fold_in(jax.random.fold_in(numerics.key(seed), 1), task)


def weights_key(seed: int) -> Key[Array, ""]:
    """Return the key of the network's weights."""
    return jax.random.fold_in(numerics.key(seed), 0)


class Shared(NamedTuple):
    """The inputs that all tasks share.

    Attributes:
        weights: the base weights.
        stats: the initial batch-norm statistics of a task.
        train: the training samples of the data set.
    """

    weights: Weights
    stats: Stats
    train: Samples


class Start(NamedTuple):
    """The initial values of a task.

    Attributes:
        weights: the base weights.
        params: the parameters that the task trains.
    """

    weights: Weights
    params: Params


class Progress(NamedTuple):
    """The training state of a task, which each update changes.

    Attributes:
        learned: the `weights` and the `params`, each `None` if it is not trained.
        optimizer: the optimiser's state.
        stats: the task's batch-norm statistics.
    """

    learned: dict[str, Any]
    optimizer: PyTree[Any]
    stats: Stats


@dataclass(frozen=True)
class Learner:
    """The update step of a task, for a network, a method and an optimiser.

    Attributes:
        net: the network.
        method: defines the parameters of a task, and computes effective weights from them.
        optimizer: the optimiser of all that is learned.
        trains_weights: whether the base weights are learned, in addition to the task's parameters.
        average: returns the mean of a pytree over all devices that share a batch; by default the identity.
    """

    net: Network
    method: Method
    optimizer: Optimizer
    trains_weights: bool = False
    average: Callable[[Any], Any] = lambda tree: tree

    def start(self, weights: Weights, key: Key[Array, ""], carry: Carry | None = None) -> Start:
        """Return the initial values of a task.

        Args:
            weights: the base weights.
            key: the first key that `keys_of` returns for the task's key.
            carry: the carry of the tasks before, if the method has one.
        """
        return Start(weights, self.method.init(key, weights, carry))

    def begin(self, start: Start, stats: Stats) -> Progress:
        """Return the training state before the first update, given the initial batch-norm statistics."""
        weights = start.weights if self.trains_weights else None
        learned: Any = {"weights": weights, "params": start.params if self.method.trains_params else None}
        return Progress(learned, self.optimizer.transformation().init(learned), stats)

    def current(self, start: Start, learned: dict[str, Any]) -> Start:
        """Return the current base weights and task parameters."""
        parts = zip(start, (learned["weights"], learned["params"]), strict=True)
        return Start(*(fixed if changed is None else changed for fixed, changed in parts))

    def effective(self, start: Start, progress: Progress) -> Weights:
        """Return the current effective weights."""
        return self.method.training_weights(*self.current(start, progress.learned))

    def update(
        self,
        start: Start,
        progress: Progress,
        images: Float[Array, "batch ..."],
        labels: Int[Array, " batch"],
        counts: Float[Array, " batch"] | None = None,
    ) -> tuple[Progress, Float[Array, ""]]:
        """Return the training state after an update, and the mean cross-entropy of its batch before it, in nats.

        Args:
            start: the initial values of the task.
            progress: the training state.
            images: normalised images, or this device's share of them.
            labels: their labels.
            counts: weight of each image in the mean; by default equal weights.
        """

        def loss(learned: Any) -> tuple[Array, Stats]:
            effective = self.method.training_weights(*self.current(start, learned))
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
        """Return the first four fields of `Learned` after all updates of a task.

        Args:
            start: the initial values of the task.
            progress: the training state.
            carry: the carry of the tasks before, if the task was learned in turn.
        """
        weights, params = self.current(start, progress.learned)
        carry = None if carry is None else self.method.next_carry(carry, params)
        return self.method.finalize(params, weights), progress.learned["weights"], carry, progress.stats


def all_finite(tree: PyTree[Any]) -> Bool[Array, ""]:
    """Return whether all numbers are finite. A loss does not show it: a NaN score removes its weight from the mask."""
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def first_not_finite(losses: Any) -> float:
    """Return the first loss that is not finite."""
    return next(float(loss) for loss in losses if not np.isfinite(loss))


@numerics.with_fixed_flags
def keys_of(task_key: Key[Array, ""]) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """Split a task's key into the key of its parameters and the key of its batches."""
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
    """Train one task; to be jitted, and mapped over tasks.

    Batches are drawn without replacement within an epoch. They continue across its end, so that all have the same size.

    Args:
        learner: the update step.
        task: the task's description.
        key: the task's key.
        shared: the inputs that all tasks share.
        benchmark: transforms samples as the task requires.
        steps: number of updates.
        batch_size: number of samples per update.
        validate: called after each epoch.
        carry: the carry of the tasks before, if the method has one.
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
    """Return the keys for the augmentation of the images of a batch.

    Args:
        order_key: the key of the task's batches.
        step: the number of the update.
        places: the positions of the images in the batch.
    """
    no_epoch = 2**32 - 1  # shuffles fold the number of their epoch into the same key
    key = jax.random.fold_in(jax.random.fold_in(order_key, no_epoch), step)
    return jax.vmap(partial(jax.random.fold_in, key))(places)


def epoch_ends(samples: int, steps: int, batch_size: int) -> list[int]:
    """Return the number of updates at which each epoch ends; the last epoch may be shorter."""
    per_epoch = -(-samples // batch_size)
    return [*range(per_epoch, steps, per_epoch), steps]


def shuffle(key: Key[Array, ""], places: int, size: int | Int[Array, ""]) -> Int[Array, " places"]:
    """Return the first `size` of `places` rows in random order, then the others; `size` may be traced."""
    if isinstance(size, int):
        return jax.random.permutation(key, places)
    return jnp.where(jnp.arange(places) < size, jax.random.uniform(key, (places,)), jnp.inf).argsort()


@numerics.with_fixed_flags
def draw_batches(
    key: Key[Array, ""], places: int, size: int | Int[Array, ""], steps: int, batch_size: int
) -> Int[Array, "steps batch"]:
    """Return the rows of every batch of a task, from consecutive shuffles, one for each epoch.

    Args:
        key: a random key.
        places: the number of samples of the task, or of the largest task.
        size: the number of samples of the task.
        steps: number of batches.
        batch_size: number of samples per batch.
    """
    # With a traced size, a task may have half the samples of the largest task before its last shuffle is repeated.
    fewest = size if isinstance(size, int) else places // 2
    epochs = jnp.arange(-(-steps * batch_size // fewest))
    shuffles = jax.lax.map(lambda epoch: shuffle(jax.random.fold_in(key, epoch), places, size), epochs)
    if isinstance(size, int):
        return shuffles.reshape(-1)[: steps * batch_size].reshape(steps, batch_size)
    positions = jnp.arange(steps * batch_size)
    return shuffles[positions // size, positions % size].reshape(steps, batch_size)


@cache
def drawn_batches(benchmark: Benchmark, steps: int, batch_size: int) -> Callable[[Key[Array, ""], Tasks], Array]:
    """Return the jitted function of a task's key and description that draws the task's batches by `draw_batches`."""

    def draw(key: Key[Array, ""], task: Tasks) -> Array:
        return draw_batches(key, benchmark.train_size, benchmark.size(task, train=True), steps, batch_size)

    return jax.jit(draw)
