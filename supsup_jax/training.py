"""One task, learned: a pure function that is compiled once and mapped over chunks of tasks.

The data lies on the device; batches are drawn, shown as the task shows them and normalised inside the loop.
Randomness is a function of (seed, task) alone, so task 7 is the same alone or among 250.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from supsup_jax.data import Benchmark, Split, Tasks
from supsup_jax.methods import Kept, Legacy, Method, Owned
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.optimizers import Optimizer

Validate = Callable[[Weights, Stats, Tasks], Float[Array, ""]]
"""From effective weights, statistics and the task's description to an accuracy on held-out data."""


class Learned(NamedTuple):
    """What training a task gives; under a map over tasks every leaf has a leading task axis.

    Attributes:
        kept: what the method keeps of the task.
        weights: the shared weights as the task leaves them; nothing if it does not train them.
        legacy: what it leaves for later tasks to start from; nothing unless it is learned in turn.
        stats: its batch-norm statistics.
        loss: mean cross-entropy of each epoch's batches, in nats.
        accuracy: accuracy on the test set after each epoch, a fraction.
    """

    kept: Kept
    weights: Weights | None
    legacy: Legacy | None
    stats: Stats
    loss: Float[Array, "*tasks epochs"]
    accuracy: Float[Array, "*tasks epochs"]


def task_key(seed: int, task: int | Int[Array, ""]) -> Key[Array, ""]:
    """The key of a task: independent of every other task's, and of the weights'."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), task)


def weights_key(seed: int) -> Key[Array, ""]:
    """The key of the network's weights."""
    return jax.random.fold_in(jax.random.key(seed), 0)


def train_task(
    net: Network,
    method: Method,
    benchmark: Benchmark,
    optimizer: Optimizer,
    steps: int,
    batch_size: int,
    validate: Validate,
    weights: Weights,
    stats: Stats,
    train: Split,
    task: Tasks,
    key: Key[Array, ""],
    trains_weights: bool = False,
    legacy: Legacy | None = None,
) -> Learned:
    """Learns one task; to be jitted, and mapped over tasks.

    Batches are drawn without replacement within an epoch, and across the end of one, so that all have one size.

    Args:
        net: the network.
        method: what the task owns, and how it becomes effective weights.
        benchmark: shows samples as the task shows them.
        optimizer: changes what is learned.
        steps: updates.
        batch_size: samples an update.
        validate: called after each epoch.
        weights: the shared weights.
        stats: the statistics that a task starts from.
        train: the training samples of the data set.
        task: describes the task.
        key: the task's key.
        trains_weights: whether the shared weights are learned, beside what the task owns.
        legacy: what the tasks before have left, if the method has any.
    """
    init_key, order_key = jax.random.split(key)  # for what the task owns, and for its batches
    owned = method.init_task(init_key, weights, legacy)
    learned: Any = {"weights": weights if trains_weights else None, "owned": owned if method.learns_owned else None}
    transformation = optimizer.transformation()
    size = benchmark.size(task, train=True)
    batches = draw_batches(order_key, benchmark.train_size, size, steps, batch_size)

    def all_of(learned: Any) -> tuple[Weights, Owned]:
        parts = (learned["weights"], weights), (learned["owned"], owned)
        own_weights, own = (fixed if changed is None else changed for changed, fixed in parts)
        return own_weights, own

    def loss(learned: Any, stats: Stats, images: Array, labels: Array) -> tuple[Array, Stats]:
        logits, stats = net.apply(method.effective(*all_of(learned)), stats, images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), stats

    def step(index: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        learned, state, stats, total = carry
        images, labels = benchmark.samples(train, task, batches[index], True, augmentation_key(order_key, index))
        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(learned, stats, images, labels)
        update, state = transformation.update(gradient, state, learned)
        return optax.apply_updates(learned, update), state, stats, total + value

    def epoch(carry: tuple[Any, ...], bounds: tuple[Array, Array]) -> tuple[tuple[Any, ...], tuple[Array, Array]]:
        start, stop = bounds
        learned, state, stats, total = jax.lax.fori_loop(start, stop, step, (*carry, jnp.float32(0)))
        accuracy = validate(method.effective(*all_of(learned)), stats, task)
        return (learned, state, stats), (total / (stop - start), accuracy)

    ends = epoch_ends(benchmark.train_size, steps, batch_size)
    bounds = jnp.asarray([0, *ends[:-1]], jnp.int32), jnp.asarray(ends, jnp.int32)
    start = learned, transformation.init(learned), stats
    (learned, _, stats), (losses, accuracies) = jax.lax.scan(epoch, start, bounds)
    owned = all_of(learned)[1]
    legacy = None if legacy is None else method.leave(legacy, owned)
    return Learned(method.keep(owned), learned["weights"], legacy, stats, losses, accuracies)


def augmentation_key(order_key: Key[Array, ""], step: int | Int[Array, ""]) -> Key[Array, ""]:
    """The key with which the images of a batch are augmented, given the one that its batches are drawn with."""
    no_epoch = 2**32 - 1  # the shuffles of epochs are drawn with their numbers
    return jax.random.fold_in(jax.random.fold_in(order_key, no_epoch), step)


def epoch_ends(samples: int, steps: int, batch_size: int) -> list[int]:
    """After how many updates each epoch ends; the last may be cut short."""
    per_epoch = -(-samples // batch_size)
    return [*range(per_epoch, steps, per_epoch), steps]


def shuffle(key: Key[Array, ""], places: int, size: int | Int[Array, ""]) -> Int[Array, " places"]:
    """The first `size` of so many rows in random order, then the rest; `size` need not be known when it is compiled."""
    if isinstance(size, int):
        return jax.random.permutation(key, places)
    return jnp.where(jnp.arange(places) < size, jax.random.uniform(key, (places,)), jnp.inf).argsort()


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
