"""Searches for the task of images over the superposition of all masks (Section 3.3 of the paper).

All masks are superposed, W ⊙ Σᵢ αᵢ Mᵢ, and the derivative of an objective of the output with respect to α is
smallest for the right mask. One backward pass to the superposed weights gives all derivatives:
∂L/∂αᵢ = Σ_layers ⟨∂L/∂W̃ ⊙ W, Mᵢ⟩, a product with the bank, so no float mask exists. Methods with other factors
than masks compute both products in `superpose` and `project`.

Every image of a batch may belong to a different task. With `images_per_pick=m`, m consecutive images are known to share
their task: the mean of their objectives is differentiated, and one task is picked for them.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from supsup_jax.arguments import array, convert, integer, wrong_type
from supsup_jax.errors import ArgumentError
from supsup_jax.inference import dense
from supsup_jax.inference.objectives import Objective, entropy, maximum
from supsup_jax.inference.search import Search
from supsup_jax.methods import Method
from supsup_jax.model import Model
from supsup_jax.networks import Stats, Weights
from supsup_jax.system import backend, numerics


@numerics.with_fixed_flags
def alpha_gradient(
    model: Model,
    images: Float[Array, "batch height width channels"] | Any,
    alphas: Float[Array, " tasks"] | Float[Array, "picks tasks"] | Any,
    objective: Objective = entropy,
    images_per_pick: SupportsIndex = 1,
) -> Float[Array, "picks tasks"]:
    """Return the derivatives of the objective with respect to every task's α, for each pick.

    Args:
        model: tasks of a method that superposes. The network runs with the mean of all tasks' batch-norm statistics.
        images: normalised images.
        alphas: one row for all picks, or one for each.
        objective: `entropy`, or `superfluous(real=...)`.
        images_per_pick: number of consecutive images that share their task.

    Raises:
        UserError: if an argument has a type that cannot be used, or the images are not normalised floats.
        ValueError: if the images do not divide into picks.
    """
    given = _model(model), _floats("images", images), _floats("alphas", alphas)
    return _alpha_gradient(
        *given, convert("objective", objective, Objective), integer("images_per_pick", images_per_pick)
    )


@partial(jax.jit, static_argnames=("objective", "images_per_pick"))
def _alpha_gradient(
    model: Model, images: Array, alphas: Array, objective: Objective, images_per_pick: int
) -> Float[Array, "picks tasks"]:
    model = narrow(model)
    groups = grouped(images, images_per_pick)
    rows = jnp.broadcast_to(alphas, (len(groups), model.num_tasks))

    def derivatives(groups: Array, alphas: Array) -> Array:
        superposed = (model.shards or model.method).superpose(model.weights, model.bank, alphas)
        return derivatives_at(model, groups, superposed, objective)

    return in_chunks(derivatives, model.weights, groups, rows)


@numerics.with_fixed_flags
@partial(jax.jit, static_argnames=("objective", "images_per_pick", "all_chosen"))
def gradient_among(
    model: Model,
    chosen: Bool[Array | np.ndarray, " tasks"],
    images: Float[Array, "batch height width channels"],
    objective: Objective = entropy,
    images_per_pick: int = 1,
    *,
    all_chosen: bool = False,
) -> Float[Array, "picks tasks"]:
    """Return the derivatives with respect to every task's α if the chosen tasks have equal α and the others 0.

    Unlike in `alpha_gradient`, the number of chosen tasks may be traced.

    Args:
        model: tasks of a method that superposes.
        chosen: which tasks take part.
        images: normalised images.
        objective: `entropy`, or `superfluous(real=...)`.
        images_per_pick: number of consecutive images that share their task.
        all_chosen: whether all tasks are chosen; the superposition then comes from the model's counts, if it has them.

    Raises:
        ValueError: if the images do not divide into picks.
    """
    model = narrow(model)
    num_chosen = jnp.asarray(chosen).sum().astype(jnp.float32)
    total = counts_of(model) if all_chosen else count(model, jnp.asarray(chosen)[None])
    equal = jax.tree.map(lambda leaf: leaf / num_chosen, total)

    def derivatives(groups: Array) -> Array:
        return derivatives_at(model, groups, equal, objective)

    groups = grouped(images, images_per_pick)
    return in_chunks(derivatives, dense.arrays_of_pick(model, *groups.shape[:2]), groups)


def counts_of(model: Model) -> Weights:
    """Return how many tasks keep each weight, from the model's counts or else its bank; leaves `(1, *weight.shape)`."""
    if not model.has_counts:
        return count(model, jnp.ones((1, model.num_tasks), bool))
    return jax.tree.map(lambda leaf: leaf[None].astype(jnp.float32), model.counts)


def count(model: Model, chosen: Bool[Array, "batch tasks"]) -> Weights:
    """Return the sum of the chosen tasks' factors: for masks, how many of them keep each weight."""
    return (model.shards or model.method).count(model.weights, model.bank, chosen)


@numerics.with_fixed_flags
@partial(jax.jit, static_argnames=("objective", "images_per_pick"))
def objective_of_each(
    model: Model,
    images: Float[Array, "batch height width channels"],
    objective: Objective = entropy,
    images_per_pick: int = 1,
) -> Float[Array, "picks tasks"]:
    """Return the objective of each pick with every task's own effective weights, for any method.

    Args:
        model: the tasks to try.
        images: normalised images.
        objective: `entropy`, `maximum`, or `superfluous(real=...)`.
        images_per_pick: number of consecutive images that share their task; their objectives are averaged.

    Raises:
        ValueError: if the images do not divide into picks, or there are no tasks.
        IndexError: if the bank does not hold all tasks.
    """
    groups = grouped(images, images_per_pick)
    if model.num_tasks < 1:
        raise ValueError(f"there are {model.num_tasks} tasks to try; give at least one")
    jax.eval_shape(lambda: model.adapter(model.num_tasks - 1))  # a traced number is not checked

    def one_task(task: Array) -> Array:
        logits, _ = model.net.apply(model.effective_weights(task), model.task_stats(task), images, train=False)
        return objective(logits).reshape(groups.shape[:2]).mean(1)

    return jax.lax.map(one_task, jnp.arange(model.num_tasks)).T


@dataclass(frozen=True)
class OneShot(Search):
    """One gradient: picks the task whose α has the smallest derivative at α = 1/n (Section 3.3)."""

    uses_counts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.objective is maximum:
            raise ArgumentError("objective", "maximum", "cannot be used in superpositions; give entropy, or Exhaustive")

    def serves(self, method: Method) -> bool:
        """Return whether the method declares that its effective weights superpose linearly."""
        return any(kind.__name__ in method.searches for kind in type(self).__mro__)

    def scores(
        self, model: Model, images: Float[Array, "batch height width channels"], images_per_pick: int = 1
    ) -> Float[Array, "picks tasks"]:
        """Return the derivatives of the objective with respect to every α, at 1/n."""
        everything = np.ones(model.num_tasks, bool)
        return gradient_among(model, everything, images, self.objective, images_per_pick, all_chosen=True)


@dataclass(frozen=True)
class Exhaustive(Search):
    """Tries every task, for any method: picks the task with the smallest objective under its own effective weights.

    BatchE infers its tasks this way, by the entropy or by the largest maximal probability.
    """

    scores_are_values: ClassVar[bool] = True

    def scores(
        self, model: Model, images: Float[Array, "batch height width channels"], images_per_pick: int = 1
    ) -> Float[Array, "picks tasks"]:
        """Return the objective with every task's own effective weights."""
        return objective_of_each(model, images, self.objective, images_per_pick)


@numerics.with_fixed_flags
def infer(
    model: Model,
    images: Float[Array, "batch height width channels"] | Any,
    search: Search | Any,
    images_per_pick: SupportsIndex = 1,
) -> Int[Array, " picks"]:
    """Return the task of each image, or of every `images_per_pick` consecutive images, as int32.

    Args:
        model: the tasks among which to search.
        images: normalised images; each may belong to a different task.
        search: `OneShot`, `Binary` or `Exhaustive`, with its objective.
        images_per_pick: number of consecutive images that share their task.

    Raises:
        UserError: if an argument has a type that cannot be used, or the images are not normalised floats.
        ValueError: if the images do not divide into picks.
    """
    images = _floats("images", images)
    return _infer(_model(model), images, convert("search", search, Search), integer("images_per_pick", images_per_pick))


@partial(jax.jit, static_argnames=("search", "images_per_pick"))
def _infer(model: Model, images: Array, search: Search, images_per_pick: int) -> Int[Array, " picks"]:
    return search(model, images, images_per_pick)


def _model(given: Any) -> Model:
    if not isinstance(given, Model):
        raise wrong_type("model", given, "a Model, such as that of a run: run.model")
    return given


def _floats(argument: str, given: Any) -> Any:
    """Return an array of floats for a jitted function; it may be traced."""
    values = given if isinstance(given, jax.Array | np.ndarray) else array(argument, given)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        hint = ", as run.inputs.normalise returns them; run.infer_task takes raw images"
        problem = f"must be floats{hint if argument == 'images' else ''}"
        raise ArgumentError(argument, f"of type {values.dtype}", problem)
    return values


def narrow(model: Model) -> Model:
    """Return the model without adapters beyond its tasks; the bytes that shards append to a bank stay."""
    if model.shards is not None:
        return model
    return dataclasses.replace(model, bank=model.method.narrow(model.bank, model.num_tasks))


def derivatives_at(
    model: Model,
    groups: Float[Array, "picks images height width channels"],
    superposed: Weights,
    objective: Objective,
) -> Float[Array, "picks tasks"]:
    """Return ∂L/∂α for each group, with the mean objective L at the one superposition, or at each group's."""
    return project(model, fast_gradients_at(model, groups, superposed, objective))


def fast_gradients_at(
    model: Model,
    groups: Float[Array, "picks images height width channels"],
    superposed: Weights,
    objective: Objective,
) -> PyTree[Any]:
    """Return ∂L/∂W̃ ⊙ W for each group as `Outer` where these are faster, and else as arrays; see `derivatives_at`."""
    if not dense.are_faster(model, *groups.shape[:2]):
        return gradients_at(model, groups, superposed, objective)
    factors = _at_each(model, groups, superposed, partial(dense.factors_at, model.net, objective=objective))
    return dense.combined(model.weights, factors)


def project(model: Model, gradients: PyTree[Any]) -> Float[Array, "picks tasks"]:
    """Return the inner products of gradients with every task's factor; see `Method.project`."""
    if model.shards is not None:
        return model.shards.project(model.bank, gradients)
    return model.method.project(model.bank, gradients, model.num_tasks)


def gradients_at(
    model: Model,
    groups: Float[Array, "picks images height width channels"],
    superposed: Weights,
    objective: Objective,
) -> Weights:
    """Return ∂L/∂W̃ ⊙ W for each group, which the method's `project` turns into ∂L/∂α; see `derivatives_at`."""

    def gradient(effective: Weights, stats: Stats, images: Array) -> Weights:
        def loss(effective: Weights) -> Array:
            logits, _ = model.net.apply(effective, stats, images, train=False)
            return objective(logits).mean()

        return jax.tree.map(jnp.multiply, jax.grad(loss)(effective), model.weights)

    return _at_each(model, groups, superposed, gradient)


def _at_each(
    model: Model,
    groups: Float[Array, "picks images height width channels"],
    superposed: Weights,
    function: Callable[[Weights, Stats, Array], Any],
) -> Any:
    """Return the results of a function of effective weights, statistics and images for each group.

    For the superpositions, see `derivatives_at`. The faster, rounded products of accelerators would blur the small
    differences between derivatives.
    """
    stats = model.mean_stats()

    def at_group(mask: Weights, images: Array) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(jax.tree.map(jnp.multiply, model.weights, mask), stats, images)

    shared = len(jax.tree.leaves(superposed)[0]) == 1 < len(groups)
    if shared:
        superposed = jax.tree.map(lambda mask: mask[0], superposed)
    return jax.vmap(at_group, in_axes=(None if shared else 0, 0))(superposed, groups)


def memory(weights: Weights, picks: int) -> int:
    """Return roughly the bytes that a search takes besides the bank: gradients, superpositions and copies of both."""
    return 5 * min(picks * backend.num_bytes(weights), max(backend.gradient_bytes(), backend.num_bytes(weights)))


def grouped(images: Array, images_per_pick: int) -> Array:
    """Return the images with an axis of picks, `(picks, images, ...)`; raises `ValueError` if they do not divide."""
    if not len(images) or images_per_pick < 1 or len(images) % images_per_pick:
        raise ValueError(f"{len(images)} images do not divide into picks of {images_per_pick} images each")
    return images.reshape(-1, images_per_pick, *images.shape[1:])


def in_chunks(function: Callable[..., Array], row: PyTree[Any], *batches: Array) -> Array:
    """Apply a function of batches to as many rows at a time as the memory for arrays like `row` allows."""
    at_once = max(1, backend.gradient_bytes() // backend.num_bytes(row))
    parts = math.ceil(len(batches[0]) / at_once)
    return backend.scan_chunks(lambda _, *chunk: (None, function(*chunk)), None, parts, *batches)[1]
