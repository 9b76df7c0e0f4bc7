"""BatchE: a task trains two vectors per layer; their outer product scales the weights that the first task trained."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from supsup_jax.methods.base import Adapter, Bank, Carry, Method, Params
from supsup_jax.networks import Weights, draw


def _signs(key: Key[Array, ""], shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    return jax.random.rademacher(key, shape, dtype)


@dataclass(frozen=True)
class BatchE(Method):
    """BatchEnsemble for continual learning (Wen et al., 2020): effective weights W ⊙ (t sᵀ), with s and t initially ±1.

    A layer computes s ⊙ W(t ⊙ x). The first task trains the base weights together with its vectors; afterwards the base
    weights are fixed. Only kernels are scaled.

    Tasks are superposed as W ⊙ Σᵢ αᵢ tᵢ sᵢᵀ, and biases as the sum of all α times the bias (Figure 5, right).
    So all tasks' derivatives ∂L/∂αᵢ = tᵢᵀ (∂L/∂W̃ ⊙ W) sᵢ follow from one gradient.

    Attributes:
        random_weights: whether base weights stay random, without training ("Rand W" in the paper).
    """

    random_weights: bool = False

    stores: ClassVar[str] = "vectors s and t"
    searches: ClassVar[tuple[str, ...]] = ("Exhaustive", "OneShot", "Binary")

    def trains_weights(self, task: int) -> bool:
        """Return True for the first task, unless `random_weights` is set."""
        return task == 0 and not self.random_weights

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Return random signs: for each kernel a vector `t` over its inputs and a vector `s` over its outputs."""

        def vectors(kernel: Array) -> dict[str, Array]:
            return {"s": kernel[(0,) * (kernel.ndim - 1)], "t": kernel[(0,) * (kernel.ndim - 2)][:, 0]}

        shapes = jax.tree.map(lambda leaf: vectors(leaf) if leaf.ndim > 1 else {}, weights)
        return draw(key, shapes, _signs)

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """Return the vectors unchanged."""
        return params

    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """Return the weights scaled by the task's vectors."""

        def scaled(leaf: Array, vectors: dict[str, Array]) -> Array:
            if not vectors:
                return leaf
            window = (1,) * (leaf.ndim - 2)
            return leaf * vectors["t"].reshape(*window, -1, 1) * vectors["s"].reshape(*window, 1, -1)

        return jax.tree.map(scaled, weights, adapter)

    def superpose(self, weights: Weights, bank: Bank, alphas: Float[Array, "batch tasks"]) -> PyTree[Array]:
        """Return Σᵢ αᵢ tᵢ sᵢᵀ for each kernel, and the sum of all α for other weights."""

        def factor(leaf: Array, vectors: dict[str, Array]) -> Array:
            if not vectors:
                return alphas.sum(-1).reshape(-1, *[1] * leaf.ndim)

            def mix(row: Array) -> Array:
                return jnp.matmul((row[:, None] * vectors["t"]).T, vectors["s"], precision="highest")

            mixed = jax.lax.map(mix, alphas)
            return mixed.reshape(len(alphas), *[1] * (leaf.ndim - 2), *mixed.shape[1:])

        return jax.tree.map(factor, weights, bank)

    def project(self, bank: Bank, gradients: PyTree[Array], num_tasks: int) -> Float[Array, "batch tasks"]:
        """Return tᵢᵀ g sᵢ, summed over kernels and the positions of their windows, plus the sum of all other g."""

        def products(gradient: Array, vectors: dict[str, Array]) -> Array:
            if not vectors:
                return gradient.reshape(len(gradient), -1).sum(-1, keepdims=True)

            def product(kernel: Array) -> Array:
                return (jnp.matmul(vectors["t"], kernel, precision="highest") * vectors["s"]).sum(-1)

            return jax.lax.map(product, gradient.sum(tuple(range(1, gradient.ndim - 2))))

        parts: Any = jax.tree.map(products, gradients, bank)
        return sum(jax.tree.leaves(parts), jnp.zeros((1, num_tasks)))
