"""BatchE: a task trains two vectors a layer, whose outer product scales weights that the first task has trained."""

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
    """BatchEnsemble for continual learning (Wen et al., 2020): effective weights W ⊙ (t sᵀ), s and t from ±1.

    A layer computes s ⊙ W(t ⊙ x). The base weights are trained together with the first task's vectors, and fixed
    from then on. What is no kernel is not scaled.

    Attributes:
        random_weights: whether the weights are never trained ("Rand W" in the paper).
    """

    random_weights: bool = False

    stores: ClassVar[str] = "vectors s and t"

    def trains_weights(self, task: int) -> bool:
        """With the first task, or never."""
        return task == 0 and not self.random_weights

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Random signs: for each kernel `t`, one for every input, and `s`, one for every output."""

        def vectors(kernel: Array) -> dict[str, Array]:
            return {"s": kernel[(0,) * (kernel.ndim - 1)], "t": kernel[(0,) * (kernel.ndim - 2)][:, 0]}

        shapes = jax.tree.map(lambda leaf: vectors(leaf) if leaf.ndim > 1 else {}, weights)
        return draw(key, shapes, _signs)

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """The vectors."""
        return params

    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """The scaled weights."""

        def scaled(leaf: Array, own: dict[str, Array]) -> Array:
            if not own:
                return leaf
            window = (1,) * (leaf.ndim - 2)
            return leaf * own["t"].reshape(*window, -1, 1) * own["s"].reshape(*window, 1, -1)

        return jax.tree.map(scaled, weights, adapter)
