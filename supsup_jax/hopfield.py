"""A Hopfield memory: patterns of ±1, superposed in a matrix of fixed size (Section 3.5 of the paper)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def storkey(
    matrix: Float[Array | np.ndarray, "units units"], patterns: Float[Array | np.ndarray, "patterns units"]
) -> Float[Array, "units units"]:
    """The memory after it has taken in patterns one by one, by Storkey's rule.

    With h = W x, W grows by (x xᵀ - I - x hᵀ - h xᵀ) / d for d units. The diagonal that this leaves is kept.

    Args:
        matrix: the memory before; at first all zeros.
        patterns: of ±1, in order.
    """
    units = matrix.shape[0]

    def store(matrix: Array, x: Array) -> tuple[Array, None]:
        h = matrix @ x
        return matrix + (jnp.outer(x, x) - jnp.eye(units) - jnp.outer(x, h) - jnp.outer(h, x)) / units, None

    with jax.default_matmul_precision("highest"):
        return jax.lax.scan(store, jnp.asarray(matrix), jnp.asarray(patterns))[0]


def energy(matrix: Float[Array, "units units"], state: Float[Array, " units"]) -> Float[Array, ""]:
    """The energy -½ sᵀWs of a state, smallest where a stored pattern is."""
    with jax.default_matmul_precision("highest"):
        return -state @ matrix @ state / 2
