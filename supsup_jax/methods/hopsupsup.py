"""HopSupSup: each task trains binary gains, and one Hopfield network stores the gains of all tasks."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from supsup_jax import masks
from supsup_jax.errors import UserError
from supsup_jax.methods.base import Adapter, Carry, Method, Params
from supsup_jax.networks import Network, Weights
from supsup_jax.system import numerics


class Memory(NamedTuple):
    """Superposed gains of all tasks. The size does not depend on the number of tasks.

    Attributes:
        matrices: weights of a Hopfield network for each layer of gains, `(units, units)`.
        total: sum of all patterns of ±1 for each layer, `(units,)`.
        num_tasks: number of stored tasks.
    """

    matrices: PyTree[Float[Array | np.ndarray, "units units"]]
    total: PyTree[Float[Array | np.ndarray, " units"]]
    num_tasks: Int[Array | np.ndarray, ""]


@dataclass(frozen=True)
class HopSupSup(Method):
    """HopSupSup (Section 3.5 of the paper): effective gains [S >= 0] with frozen random weights.

    Gains are the parameters that Flax calls `scale`. Scores start at 0, so the first mask is all ones. Only the memory
    is kept; `supsup_jax.inference.recovery` recovers a task's mask from it.
    """

    bank_grows: ClassVar[bool] = False
    stacks: ClassVar[bool] = False
    stores: ClassVar[str] = "Hopfield memory"
    recovers: ClassVar[bool] = True
    searches: ClassVar[tuple[str, ...]] = ()

    def check(self, net: Network) -> None:
        """Check that the network has gains.

        Raises:
            UserError: if it has none.
        """

        def params() -> Params:  # shapes only: JAX must not initialise devices yet, because their number is set later
            key = numerics.key(0)
            return self.init(key, net.init(key)[0])

        jax.eval_shape(params)

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Return scores of 0 for the gains.

        Raises:
            UserError: if the network has no gains.
        """

        def score(path: tuple[Any, ...], leaf: Array) -> Array | None:
            return jnp.zeros_like(leaf) if path[-1].key == "scale" else None

        scores = jax.tree_util.tree_map_with_path(score, weights)
        if not jax.tree.leaves(scores):
            raise UserError("HopSupSup requires a network with gains (parameters named `scale`), such as BNNet")
        return scores

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """Return the mask of the scores."""
        return masks.threshold(params)

    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """Return the weights with the mask in place of the gains."""
        return jax.tree.map(
            lambda mask, weight: weight if mask is None else mask, adapter, weights, is_leaf=lambda leaf: leaf is None
        )

    def remember(self, bank: Memory | None, adapters: Adapter) -> Memory:
        """Return the memory after storing more masks, in order."""
        patterns = jax.tree.map(lambda mask: 2.0 * mask - 1, adapters)
        if bank is None:
            units = jax.tree.map(lambda pattern: pattern.shape[-1], patterns)
            bank = Memory(
                jax.tree.map(lambda size: jnp.zeros((size, size)), units), jax.tree.map(jnp.zeros, units), jnp.int32(0)
            )
        return Memory(
            jax.tree.map(storkey, bank.matrices, patterns),
            jax.tree.map(lambda total, pattern: total + pattern.sum(0), bank.total, patterns),
            bank.num_tasks + len(jax.tree.leaves(patterns)[0]),
        )


def storkey(
    matrix: Float[Array | np.ndarray, "units units"], patterns: Float[Array | np.ndarray, "patterns units"]
) -> Float[Array, "units units"]:
    """Store patterns one by one, by Storkey's rule.

    With h = W x, W increases by (x xᵀ - I - x hᵀ - h xᵀ) / d for d units. The resulting diagonal is not set to zero.

    Args:
        matrix: current weights of the Hopfield network; initially zero.
        patterns: patterns of ±1, in order.
    """
    units = matrix.shape[0]

    def add(matrix: Array, x: Array) -> tuple[Array, None]:
        h = matrix @ x
        return matrix + (jnp.outer(x, x) - jnp.eye(units) - jnp.outer(x, h) - jnp.outer(h, x)) / units, None

    with jax.default_matmul_precision("highest"):
        return jax.lax.scan(add, jnp.asarray(matrix), jnp.asarray(patterns))[0]


def energy(matrix: Float[Array, "units units"], state: Float[Array, " units"]) -> Float[Array, ""]:
    """Return the energy -½ sᵀWs of a state, which is smallest at stored patterns."""
    with jax.default_matmul_precision("highest"):
        return -state @ matrix @ state / 2
