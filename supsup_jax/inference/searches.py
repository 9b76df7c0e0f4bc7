"""Which task is this? Searches over the superposition of all masks (Section 3.3 of the paper).

All masks are superposed, W ⊙ Σᵢ αᵢ Mᵢ, and the derivative of an objective of the output with respect to α is
smallest for the mask that fits. One backward pass to the superposed weights gives all derivatives:
∂L/∂αᵢ = Σ_layers ⟨∂L/∂W̃ ⊙ W, Mᵢ⟩, a product with the bank, so no float mask exists.

Every image of a batch may belong to another task. With `images_per_pick=m`, m images in a row are known to share
their task: the mean of their objectives is what is derived, and one task is picked for them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from supsup_jax import masks
from supsup_jax.inference.objectives import Objective, entropy
from supsup_jax.masks import Bank
from supsup_jax.methods import Method, Store
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.system import backend


@partial(jax.jit, static_argnames=("net", "num_tasks", "objective", "images_per_pick"))
def alpha_gradient(
    net: Network,
    weights: Weights,
    stats: Stats,
    bank: Bank,
    num_tasks: int,
    images: Float[Array, "batch height width channels"],
    alphas: Float[Array, " tasks"] | Float[Array, "picks tasks"],
    objective: Objective = entropy,
    images_per_pick: int = 1,
) -> Float[Array, "picks tasks"]:
    """The derivatives of the objective with respect to every task's α, for each pick.

    Args:
        net: the network.
        weights: its frozen weights.
        stats: its batch-norm statistics, `{}` if it has none; they are used and never changed.
        bank: the masks of all tasks.
        num_tasks: how many tasks of the bank to consider, from the first.
        images: normalised images.
        alphas: one row for all picks, or one for each.
        objective: `entropy`, or `superfluous(real=...)`.
        images_per_pick: how many consecutive images share their task.

    Raises:
        ValueError: if the images do not divide into picks.
    """
    bank = masks.narrow(bank, num_tasks)
    groups = _grouped(images, images_per_pick)
    rows = jnp.broadcast_to(alphas, (len(groups), num_tasks))

    def derivatives(groups: Array, alphas: Array) -> Array:
        superposed = masks.superpose(bank, alphas)
        return _derivatives(net, weights, stats, bank, num_tasks, groups, superposed, objective)

    return _in_chunks(derivatives, weights, groups, rows)


@partial(jax.jit, static_argnames=("net", "num_tasks", "objective", "images_per_pick"))
def one_shot(
    net: Network,
    weights: Weights,
    stats: Stats,
    bank: Bank,
    num_tasks: int,
    images: Float[Array, "batch height width channels"],
    objective: Objective = entropy,
    images_per_pick: int = 1,
) -> Int[Array, " picks"]:
    """The task whose α has the smallest derivative where all α are 1/n: one gradient (Section 3.3).

    Args:
        net: the network.
        weights: its frozen weights.
        stats: its batch-norm statistics, `{}` if it has none; they are used and never changed.
        bank: the masks of all tasks.
        num_tasks: how many tasks of the bank to consider, from the first.
        images: normalised images.
        objective: `entropy`, or `superfluous(real=...)`.
        images_per_pick: how many consecutive images share their task.

    Returns:
        A task for each image, int32; for every `images_per_pick` images if that is more than 1.

    Raises:
        ValueError: if the images do not divide into picks.
    """
    bank, everything = masks.narrow(bank, num_tasks), np.ones(num_tasks, bool)
    gradient = gradient_among(net, weights, stats, bank, everything, images, objective, images_per_pick)
    return gradient.argmin(-1).astype(jnp.int32)


@partial(jax.jit, static_argnames=("net", "objective", "images_per_pick"))
def gradient_among(
    net: Network,
    weights: Weights,
    stats: Stats,
    bank: Bank,
    chosen: Bool[Array | np.ndarray, " tasks"],
    images: Float[Array, "batch height width channels"],
    objective: Objective = entropy,
    images_per_pick: int = 1,
) -> Float[Array, "picks tasks"]:
    """The derivatives with respect to every task's α where those of the chosen tasks are equal and the others 0.

    As `alpha_gradient`, but how many tasks take part need not be known when it is compiled.

    Args:
        net: the network.
        weights: its frozen weights.
        stats: its batch-norm statistics, `{}` if it has none; they are used and never changed.
        bank: the masks of all tasks.
        chosen: which tasks take part.
        images: normalised images.
        objective: `entropy`, or `superfluous(real=...)`.
        images_per_pick: how many consecutive images share their task.

    Raises:
        ValueError: if the images do not divide into picks.
    """
    num_tasks = len(chosen)
    bank = masks.narrow(bank, num_tasks)
    equal = jax.tree.map(lambda kept: kept / chosen.sum(), masks.count(bank, jnp.asarray(chosen)[None]))

    def derivatives(groups: Array) -> Array:
        return _derivatives(net, weights, stats, bank, num_tasks, groups, equal, objective)

    return _in_chunks(derivatives, weights, _grouped(images, images_per_pick))


def binary(
    net: Network,
    weights: Weights,
    stats: Stats,
    bank: Bank,
    num_tasks: int,
    images: Float[Array, "batch height width channels"],
    objective: Objective = entropy,
    images_per_pick: int = 1,
    base: int = 2,
) -> Int[Array, " picks"]:
    """The task that is left after about log₂ n rounds, each of which keeps the better half (Section 3.3).

    Args and returns are those of `one_shot`. Exactly ⌈n/2⌉ tasks survive a round, the smallest derivatives, and
    among equal ones the lowest numbers; ⌈n/base⌉ with another `base`.

    Raises:
        ValueError: if the images do not divide into picks, or the base is less than 2.
    """
    path = binary_path(net, weights, stats, bank, num_tasks, images, objective, images_per_pick, base)
    return path[-1].argmax(-1).astype(jnp.int32)


@partial(jax.jit, static_argnames=("net", "num_tasks", "objective", "images_per_pick", "base"))
def binary_path(
    net: Network,
    weights: Weights,
    stats: Stats,
    bank: Bank,
    num_tasks: int,
    images: Float[Array, "batch height width channels"],
    objective: Objective = entropy,
    images_per_pick: int = 1,
    base: int = 2,
) -> Float[Array, "rounds picks tasks"]:
    """The α of every round of `binary`: first all 1/n, last a 1 for the pick.

    Args and errors are those of `binary`.
    """
    if base < 2:
        raise ValueError(f"a round that keeps one in {base} tasks leaves all of them; give a base of at least 2")
    bank = masks.narrow(bank, num_tasks)
    sizes = [num_tasks]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // base))

    def search(groups: Array) -> Array:
        def keep_best(alive: Bool[Array, "picks tasks"], size: Array) -> tuple[Array, Array]:
            superposed = jax.tree.map(
                lambda kept: kept / alive.sum(-1).reshape(-1, *[1] * (kept.ndim - 1)),
                masks.count(bank, alive),
            )
            gradient = _derivatives(net, weights, stats, bank, num_tasks, groups, superposed, objective)
            order = jnp.where(alive, gradient, jnp.inf).argsort(-1, stable=True)
            rank = order.argsort(-1)
            alive = rank < size
            return alive, alive

        everything = jnp.ones((len(groups), num_tasks), bool)
        _, rounds = jax.lax.scan(keep_best, everything, jnp.asarray(sizes[1:], jnp.int32))
        rounds = jnp.concatenate([everything[None], rounds])
        return (rounds / rounds.sum(-1, keepdims=True)).swapaxes(0, 1)

    return _in_chunks(search, weights, _grouped(images, images_per_pick)).swapaxes(0, 1)


def exhaustive(
    net: Network,
    method: Method,
    weights: Weights,
    stats: Stats,
    store: Store,
    num_tasks: int,
    images: Float[Array, "batch height width channels"],
    objective: Objective = entropy,
    images_per_pick: int = 1,
) -> Int[Array, " picks"]:
    """The task with whose own effective weights the objective is smallest: every one is tried, for any method.

    BatchE infers its tasks so, by the entropy or by the largest maximal probability.

    Args are those of `objective_of_each`.

    Returns:
        A task for each pick, int32; among equal ones the lowest.

    Raises:
        ValueError: if the images do not divide into picks.
    """
    each = objective_of_each(net, method, weights, stats, store, num_tasks, images, objective, images_per_pick)
    return each.argmin(-1).astype(jnp.int32)


@partial(jax.jit, static_argnames=("net", "method", "num_tasks", "objective", "images_per_pick"))
def objective_of_each(
    net: Network,
    method: Method,
    weights: Weights,
    stats: Stats,
    store: Store,
    num_tasks: int,
    images: Float[Array, "batch height width channels"],
    objective: Objective = entropy,
    images_per_pick: int = 1,
) -> Float[Array, "picks tasks"]:
    """The objective of each pick with every task's own effective weights.

    Args:
        net: the network.
        method: how what is kept of a task becomes effective weights.
        weights: the shared weights.
        stats: batch-norm statistics of every task, stacked along a leading axis; `{}` if there are none.
        store: what is kept of every task.
        num_tasks: how many tasks to consider, from the first.
        images: normalised images.
        objective: `entropy`, `maximum`, or `superfluous(real=...)`.
        images_per_pick: how many consecutive images share their task; the mean of their objectives counts.

    Raises:
        ValueError: if the images do not divide into picks, or there are no tasks.
        IndexError: if a bank does not hold so many.
    """
    groups = _grouped(images, images_per_pick)
    if num_tasks < 1:
        raise ValueError(f"there are {num_tasks} tasks to try; give at least one")
    jax.eval_shape(lambda: method.unpack(store, num_tasks - 1))  # a traced number is not checked

    def one_task(task: Array) -> Array:
        effective = method.combine(weights, method.unpack(store, task))
        own = jax.tree.map(lambda leaf: leaf[task], stats)
        logits, _ = net.apply(effective, own, images, train=False)
        return objective(logits).reshape(groups.shape[:2]).mean(1)

    return jax.lax.map(one_task, jnp.arange(num_tasks)).T


@dataclass(frozen=True)
class Inference:
    """A search with its objective; hashable.

    Attributes:
        search: `one_shot`, `binary` or `exhaustive`.
        objective: `entropy`, `superfluous(real=...)` or, for `exhaustive`, `maximum`.
        base: `binary` keeps one in so many tasks in every round.
    """

    search: Callable[..., Int[Array, " picks"]]
    objective: Objective = entropy
    base: int = 2

    def __call__(
        self,
        net: Network,
        method: Method,
        weights: Weights,
        stats: Stats,
        store: Store,
        num_tasks: int,
        images: Float[Array, "batch height width channels"],
        images_per_pick: int = 1,
    ) -> Int[Array, " picks"]:
        """The tasks picked. Arguments are those of `exhaustive`; superposed masks run with the mean statistics."""
        how = self.objective, images_per_pick
        if self.search is exhaustive:
            return exhaustive(net, method, weights, stats, store, num_tasks, images, *how)
        if self.search is binary:
            return binary(net, weights, _mean(stats, num_tasks), store, num_tasks, images, *how, self.base)
        return self.search(net, weights, _mean(stats, num_tasks), store, num_tasks, images, *how)

    def scores(
        self,
        net: Network,
        method: Method,
        weights: Weights,
        stats: Stats,
        store: Store,
        num_tasks: int,
        images: Float[Array, "batch height width channels"],
    ) -> Float[Array, "batch tasks"]:
        """What is small for the task of an image: the objective's derivatives where all α are 1/n, or itself.

        Arguments are those of `exhaustive`, whose scores are values of the objective. `one_shot` picks the smallest
        score; for `binary` it is what the first round sees.
        """
        if self.search is exhaustive:
            return objective_of_each(net, method, weights, stats, store, num_tasks, images, self.objective)
        everything = np.ones(num_tasks, bool)
        return gradient_among(net, weights, _mean(stats, num_tasks), store, everything, images, self.objective)


def _mean(stats: Stats, num_tasks: int) -> Stats:
    return jax.tree.map(lambda leaf: leaf[:num_tasks].mean(0), stats)


def _derivatives(
    net: Network,
    weights: Weights,
    stats: Stats,
    bank: Bank,
    num_tasks: int,
    groups: Float[Array, "picks images height width channels"],
    superposed: Weights,
    objective: Objective,
) -> Float[Array, "picks tasks"]:
    """∂L/∂α for each group, L being the mean objective of its images at `superposed`: one mask for all, or each."""

    def gradient(mask: Weights, images: Array) -> Weights:
        def loss(effective: Weights) -> Array:
            logits, _ = net.apply(effective, stats, images, train=False)
            return objective(logits).mean()

        # An accelerator's faster, rounded products would blur the small differences between derivatives.
        with jax.default_matmul_precision("highest"):
            at = jax.grad(loss)(jax.tree.map(jnp.multiply, weights, mask))
        return jax.tree.map(jnp.multiply, at, weights)

    shared = len(jax.tree.leaves(superposed)[0]) == 1 < len(groups)
    if shared:
        superposed = jax.tree.map(lambda mask: mask[0], superposed)
    gradients = jax.vmap(gradient, in_axes=(None if shared else 0, 0))(superposed, groups)
    return masks.project(bank, gradients, num_tasks)


def memory(weights: Weights, picks: int) -> int:
    """About how many bytes a search takes besides the bank: gradients, superpositions and copies of both."""
    return 5 * min(picks * backend.num_bytes(weights), max(backend.gradient_bytes(), backend.num_bytes(weights)))


def _grouped(images: Array, images_per_pick: int) -> Array:
    if not len(images) or images_per_pick < 1 or len(images) % images_per_pick:
        raise ValueError(f"{len(images)} images do not divide into picks of {images_per_pick} images each")
    return images.reshape(-1, images_per_pick, *images.shape[1:])


def _in_chunks(function: Callable[..., Array], weights: Weights, *batches: Array) -> Array:
    """Applies a function of batches to as many rows at a time as the memory for their gradients allows."""
    at_once = max(1, backend.gradient_bytes() // backend.num_bytes(weights))
    parts = math.ceil(len(batches[0]) / at_once)
    return backend.scan_chunks(lambda _, *chunk: (None, function(*chunk)), None, parts, *batches)[1]
