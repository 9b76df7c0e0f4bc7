"""One task, learned: a pure function that is compiled once and mapped over chunks of tasks.

The data lies on the device; batches are drawn, shown as the task shows them and normalised inside the loop.
Randomness is a function of (seed, task) alone, so task 7 is the same alone or among 250.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from supsup_jax.data import Benchmark, Split, Tasks
from supsup_jax.methods import Kept, Method
from supsup_jax.networks import Network, Stats, Weights

Validate = Callable[[Weights, Stats, Tasks], Float[Array, ""]]
"""From effective weights, statistics and the task's description to an accuracy on held-out data."""


@dataclass(frozen=True)
class RMSprop:
    """RMSprop as PyTorch defines it: no momentum, epsilon outside the root, and no bias correction.

    Attributes:
        learning_rate: step size; 1e-4 in the MNIST experiments.
        decay: of the running mean of squared gradients (PyTorch's alpha).
        epsilon: added to its root.
    """

    learning_rate: float = 1e-4
    decay: float = 0.99
    epsilon: float = 1e-8

    def transformation(self) -> optax.GradientTransformation:
        """The optimiser as optax has it."""
        return optax.rmsprop(self.learning_rate, decay=self.decay, eps=self.epsilon, eps_in_sqrt=False)


class Learned(NamedTuple):
    """What training a task gives; under a map over tasks every leaf has a leading task axis.

    Attributes:
        kept: what the method keeps of the task.
        stats: its batch-norm statistics.
        loss: mean cross-entropy of each epoch's batches, in nats.
        accuracy: accuracy on the test set after each epoch, a fraction.
    """

    kept: Kept
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
    optimizer: RMSprop,
    steps: int,
    batch_size: int,
    validate: Validate,
    weights: Weights,
    stats: Stats,
    train: Split,
    task: Tasks,
    key: Key[Array, ""],
) -> Learned:
    """Learns one task; to be jitted, and mapped over tasks.

    Batches are drawn without replacement within an epoch, and across the end of one, so that all have one size.

    Args:
        net: the network.
        method: what the task owns, and how it becomes effective weights.
        benchmark: shows samples as the task shows them.
        optimizer: changes what the task owns.
        steps: updates.
        batch_size: samples an update.
        validate: called after each epoch.
        weights: the shared weights.
        stats: the statistics that a task starts from.
        train: the training samples of the data set.
        task: describes the task.
        key: the task's key.
    """
    init_key, order_key = jax.random.split(key)
    owned = method.init_task(init_key, weights)
    transformation = optimizer.transformation()
    batches = _batches(order_key, benchmark.train_size, steps, batch_size)

    def loss(owned: PyTree[Array], stats: Stats, images: Array, labels: Array) -> tuple[Array, Stats]:
        logits, stats = net.apply(method.effective(weights, owned), stats, images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), stats

    def step(index: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        owned, state, stats, total = carry
        images, labels = benchmark.samples(train, task, batches[index])
        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(owned, stats, images, labels)
        update, state = transformation.update(gradient, state, owned)
        return optax.apply_updates(owned, update), state, stats, total + value

    def epoch(carry: tuple[Any, ...], bounds: tuple[Array, Array]) -> tuple[tuple[Any, ...], tuple[Array, Array]]:
        start, stop = bounds
        owned, state, stats, total = jax.lax.fori_loop(start, stop, step, (*carry, jnp.float32(0)))
        accuracy = validate(method.effective(weights, owned), stats, task)
        return (owned, state, stats), (total / (stop - start), accuracy)

    ends = epoch_ends(benchmark.train_size, steps, batch_size)
    bounds = jnp.asarray([0, *ends[:-1]], jnp.int32), jnp.asarray(ends, jnp.int32)
    (owned, _, stats), (losses, accuracies) = jax.lax.scan(epoch, (owned, transformation.init(owned), stats), bounds)
    return Learned(method.keep(owned), stats, losses, accuracies)


def epoch_ends(samples: int, steps: int, batch_size: int) -> list[int]:
    """After how many updates each epoch ends; the last may be cut short."""
    per_epoch = -(-samples // batch_size)
    return [*range(per_epoch, steps, per_epoch), steps]


def _batches(key: Key[Array, ""], samples: int, steps: int, batch_size: int) -> Int[Array, "steps batch"]:
    """The rows of every batch: a fresh shuffle for each epoch, one after another."""
    epochs = jnp.arange(-(-steps * batch_size // samples))
    shuffles = jax.lax.map(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), samples), epochs)
    return shuffles.reshape(-1)[: steps * batch_size].reshape(steps, batch_size)
