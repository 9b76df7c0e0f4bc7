"""BatchE: a task trains two vectors per layer; their outer product scales the weights that the first task trained."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from supsup_jax.methods.base import Adapter, Carry, Method, Params
from supsup_jax.networks import Weights, draw


def _signs(key: Key[Array, ""], shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    return jax.random.rademacher(key, shape, dtype)


@dataclass(frozen=True)
class BatchE(Method):
    """BatchEnsemble for continual learning (Wen et al., 2020): effective weights W ⊙ (t sᵀ), with s and t initially ±1.

    A layer computes s ⊙ W(t ⊙ x). The first task trains the base weights together with its vectors; afterwards the base
    weights are fixed. Only kernels are scaled.

    Attributes:
        random_weights: whether base weights stay random, without training ("Rand W" in the paper).
    """

    random_weights: bool = False

    stores: ClassVar[str] = "vectors s and t"

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
