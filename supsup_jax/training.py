"""Training of one task: a pure function that is compiled once and mapped over chunks of tasks.

The data is on the device. Inside the loop, batches are drawn, transformed for the task, and normalised. Randomness is a
function of (seed, task) alone, so task 7 is the same alone or among 250 tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from supsup_jax.data import Benchmark, Samples, Tasks
from supsup_jax.errors import ArgumentError
from supsup_jax.methods import Adapter, Carry, Method, Moment, Params, Phase
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
        loss: mean loss of each epoch's batches, in nats, with the method's penalty; NaN if anything that is learned
            is not finite.
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
        learned: the `weights` and the `params`, each `None` if it is not trained, as are leaves that are not.
        optimizer: the optimiser's state.
        stats: the task's batch-norm statistics.
    """

    learned: dict[str, Any]
    optimizer: PyTree[Any]
    stats: Stats


@dataclass(frozen=True)
class Learner:
    """The update step of a task in one phase of its training, for a network, a method and an optimiser.

    Attributes:
        net: the network.
        method: defines the parameters of a task, and computes effective weights from them.
        optimizer: the optimiser of all that is learned.
        phase: what is trained in the phase; by default the task's parameters, if the method trains them.
        number: index of the phase.
        average: returns the mean of a pytree over all devices that share a batch; by default the identity.
    """

    net: Network
    method: Method
    optimizer: Optimizer
    phase: Phase | None = None
    number: int = 0
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
        phase = self.phase or Phase(False, self.method.trains_params)
        params = None
        if phase.trains_params:
            trained = self.method.is_trained(start.params)
            params = jax.tree.map(lambda is_trained, part: part if is_trained else None, trained, start.params)
        learned: Any = {"weights": start.weights if phase.trains_weights else None, "params": params}
        return Progress(learned, self.optimizer.transformation().init(learned), stats)

    def current(self, start: Start, learned: dict[str, Any]) -> Start:
        """Return the current base weights and task parameters."""

        def merge(initial: Any, current: Any) -> Any:
            return initial if current is None else current

        params = start.params
        if learned["params"] is not None:
            trained = self.method.is_trained(params)
            params = jax.tree.map(lambda _, *parts: merge(*parts), trained, params, learned["params"])
        return Start(merge(start.weights, learned["weights"]), params)

    def effective(self, start: Start, progress: Progress) -> Weights:
        """Return the effective weights at the end of the phase, if no updates follow."""
        return self.method.weights_at(*self.current(start, progress.learned), Moment(self.number))

    def next_start(self, start: Start, progress: Progress) -> Start:
        """Return the initial values of the next phase."""
        weights, params = self.method.begin_phase(self.number + 1, *self.current(start, progress.learned))
        return Start(weights, params)

    def update(
        self,
        start: Start,
        progress: Progress,
        images: Float[Array, "batch ..."],
        labels: Int[Array, " batch"],
        counts: Float[Array, " batch"] | None = None,
        share: Float[Array, ""] | float = 1.0,
    ) -> tuple[Progress, Float[Array, ""]]:
        """Return the training state after an update, and the mean loss of its batch before it, in nats.

        Args:
            start: the initial values of the task.
            progress: the training state.
            images: normalised images, or this device's share of them.
            labels: their labels.
            counts: weight of each image in the mean; by default equal weights.
            share: the fraction of the updates of this phase that were made before.
        """
        moment = Moment(self.number, share)

        def loss(learned: Any) -> tuple[Array, Stats]:
            weights, params = self.current(start, learned)
            cross_entropy, stats = mean_cross_entropy(self.method.weights_at(weights, params, moment))
            penalty = self.method.penalty(weights, params, moment)
            return cross_entropy if penalty is None else cross_entropy + penalty, stats

        def mean_cross_entropy(effective: Weights) -> tuple[Array, Stats]:
            is_training = not self.method.freezes_stats
            logits, stats = self.net.apply(effective, progress.stats, images, train=is_training)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            if counts is None:
                return losses.mean(), stats
            total = self.average(counts.sum())
            return (losses * counts).sum() / jnp.where(total > 0, total, 1), stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(progress.learned)
        value, stats, gradient = self.average((value, stats, gradient))
        transformation, learned = self.optimizer.transformation(), progress.learned
        update: Any
        update, state = transformation.update(gradient, progress.optimizer, learned)
        if learned["weights"] is not None:
            applied = self.method.update_share(*self.current(start, learned), self.number)
            if applied is not None:
                update["weights"] = jax.tree.map(jnp.multiply, update["weights"], applied)
        return Progress(optax.apply_updates(learned, update), state, stats), value  # pyright: ignore

    def finish(
        self, start: Start, progress: Progress, carry: Carry | None, trains_weights: bool = False
    ) -> tuple[Adapter, Weights | None, Carry | None, Stats]:
        """Return the first four fields of `Learned` after all updates of a task.

        Args:
            start: the initial values of the task.
            progress: the training state.
            carry: the carry of the tasks before, if the task was learned in turn.
            trains_weights: whether any phase of the task has trained the base weights.
        """
        weights, params = self.current(start, progress.learned)
        carry = None if carry is None else self.method.next_carry(carry, params)
        return self.method.finalize(params, weights), weights if trains_weights else None, carry, progress.stats


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
    learners: Learner | Sequence[Learner],
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
        learners: the update step; of each phase, if there are several.
        task: the task's description.
        key: the task's key.
        shared: the inputs that all tasks share.
        benchmark: transforms samples as the task requires.
        steps: number of updates.
        batch_size: number of samples per update.
        validate: called after each epoch.
        carry: the carry of the tasks before, if the method has one.
    """
    learners = [learners] if isinstance(learners, Learner) else learners
    init_key, order_key = keys_of(key)
    size = benchmark.size(task, train=True)
    batches = draw_batches(order_key, benchmark.train_size, size, steps, batch_size)

    def train_phase(learner: Learner, start: Start, stats: Stats, bounds: list[int]) -> tuple[Progress, Any]:
        first_step, last_step = bounds[0], bounds[-1]

        def step(index: Array, state: tuple[Progress, Array, Array]) -> tuple[Progress, Array, Array]:
            progress, total, diverged = state
            keys = augmentation_keys(order_key, index, jnp.arange(batch_size))
            images, labels = benchmark.samples(shared.train, task, batches[index], True, keys)
            share = (index - first_step).astype(jnp.float32) / (last_step - first_step)
            progress, loss = learner.update(start, progress, images, labels, share=share)
            return progress, total + loss, jnp.where(jnp.isfinite(loss), diverged, jnp.minimum(diverged, index))

        def epoch(progress: Progress, bounds: tuple[Array, Array]) -> tuple[Progress, tuple[Array, Array, Array]]:
            first, stop = bounds
            state = progress, jnp.float32(0), jnp.int32(steps)
            progress, total, diverged = jax.lax.fori_loop(first, stop, step, state)
            finite = all_finite((progress.learned, progress.stats)) & jnp.isfinite(total)
            loss = jnp.where(finite, total / (stop - first).astype(jnp.float32), jnp.nan)
            diverged = jnp.where(finite, diverged, jnp.minimum(diverged, stop - 1))
            accuracy = validate(learner.effective(start, progress), progress.stats, task)
            return progress, (loss, accuracy, diverged)

        pairs = jnp.asarray(bounds[:-1], jnp.int32), jnp.asarray(bounds[1:], jnp.int32)
        return jax.lax.scan(epoch, learner.begin(start, stats), pairs)

    ends = epoch_ends(benchmark.train_size, steps, batch_size)
    start, stats, measured = learners[0].start(shared.weights, init_key, carry), shared.stats, []
    progress: Any = None
    for learner, (first, stop) in zip(learners, phase_bounds(learners, steps), strict=True):
        if measured:
            start, stats = learners[learner.number - 1].next_start(start, progress), progress.stats
        inner = [end for end in ends if first < end < stop]
        progress, measurements = train_phase(learner, start, stats, [first, *inner, stop])
        measured.append(measurements)
    losses, accuracies, diverged = (
        measured[0] if len(measured) == 1 else map(jnp.concatenate, zip(*measured, strict=True))
    )
    trains_weights = any(learner.phase is not None and learner.phase.trains_weights for learner in learners)
    finished = learners[-1].finish(start, progress, carry, trains_weights)
    return Learned(*finished, losses, accuracies, diverged.min())


def phase_bounds(learners: Sequence[Learner], steps: int) -> list[tuple[int, int]]:
    """Return the first step of each phase, and the step after its last one; each phase has at least one step.

    Raises:
        UserError: if there are fewer steps than phases.
    """
    if steps < len(learners):
        raise ArgumentError("steps", steps, f"must be at least {len(learners)}, one for each phase of the training")
    shares = np.cumsum([1.0 if learner.phase is None else learner.phase.share for learner in learners])
    stops = np.rint(shares / shares[-1] * steps).astype(int)
    for number in range(len(stops) - 1):
        stops[number] = np.clip(stops[number], number + 1, steps - (len(stops) - 1 - number))
    stops = [int(stop) for stop in stops]
    return list(zip([0, *stops[:-1]], stops, strict=True))


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
