"""Gradient descent on the coefficients α of the superposition (Equation 3 of the paper)."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from supsup_jax.checks import check_count, check_number
from supsup_jax.inference.objectives import Objective, entropy
from supsup_jax.inference.searches import OneShot, alpha_gradient, gradient_among
from supsup_jax.model import Model
from supsup_jax.system import numerics


@numerics.with_fixed_flags
@partial(jax.jit, static_argnames=("objective", "images_per_pick", "steps", "learning_rate"))
def descent_path(
    model: Model,
    images: Float[Array, "batch height width channels"],
    objective: Objective = entropy,
    images_per_pick: int = 1,
    steps: int = 10,
    learning_rate: float = 0.1,
) -> Float[Array, "updates picks tasks"]:
    """Return the α before the first update and after each update; initially all are 1/n.

    Args:
        model: tasks of a method that superposes.
        images: normalised images.
        objective: `entropy`, or `superfluous(real=...)`.
        images_per_pick: number of consecutive images that share their task.
        steps: number of updates.
        learning_rate: factor of the derivatives in an update.

    Raises:
        ValueError: if the images do not divide into picks.
    """

    def updated(alphas: Array, gradient: Array) -> Array:
        return project_on_simplex(alphas - learning_rate * gradient)

    def update(alphas: Array, _: None) -> tuple[Array, Array]:
        alphas = updated(alphas, alpha_gradient(model, images, alphas, objective, images_per_pick))
        return alphas, alphas

    everything = np.ones(model.num_tasks, bool)
    gradient = gradient_among(model, everything, images, objective, images_per_pick, all_chosen=True)
    uniform = jnp.full_like(gradient, 1 / model.num_tasks)
    first = updated(uniform, gradient)
    _, later = jax.lax.scan(update, first, length=steps - 1)
    return jnp.concatenate([uniform[None], first[None], later])


def project_on_simplex(points: Float[Array, "*batch tasks"]) -> Float[Array, "*batch tasks"]:
    """Return the nearest points whose entries are not negative and sum to 1.

    Each entry decreases by the same number, and negative ones become 0.
    """
    descending = -jnp.sort(-points, axis=-1)
    excess = (jnp.cumsum(descending, axis=-1) - 1) / jnp.arange(1, points.shape[-1] + 1)
    last = (descending > excess).sum(-1, keepdims=True) - 1
    return jnp.maximum(points - jnp.take_along_axis(excess, last, axis=-1), 0)


@dataclass(frozen=True)
class Descent(OneShot):
    """Gradient descent on α, which starts at 1/n: picks the task with the largest α at the end (Equation 3).

    The paper normalises α to sum to 1 after each update. Here α is projected on the simplex, so that none is negative.
    With one step, the picks are those of `OneShot`.

    Attributes:
        steps: number of updates; each takes a forward and a backward pass.
        learning_rate: factor of the derivatives in an update.
    """

    steps: int = 10
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("steps", self.steps)
        check_number("learning_rate", self.learning_rate)

    def scores(
        self, model: Model, images: Float[Array, "batch height width channels"], images_per_pick: int = 1
    ) -> Float[Array, "picks tasks"]:
        """Return -log α after the last update, which is infinite where α is 0."""
        path = descent_path(model, images, self.objective, images_per_pick, self.steps, self.learning_rate)
        return -jnp.log(path[-1])
