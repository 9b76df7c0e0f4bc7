"""Gradients with respect to the rows of one leaf of a bank, for a batch of picks: an array, or the factors of `Outer`.

With factors, what searches need of the gradients are products of small matrices, and no array of all of them is formed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from supsup_jax.bank.outer import Outer, leaves

Columns = Float[Array, "picks _"] | Outer
"""One row for each pick; of `Outer`, the rows of the leaf are pairs of an input and an output, in this order."""


def by_leaf(gradients: PyTree[Any]) -> list[Columns]:
    """Return the gradients with respect to each leaf of a bank, given a pytree of arrays or of `Outer`."""
    return [leaf if isinstance(leaf, Outer) else leaf.reshape(len(leaf), -1) for leaf in leaves(gradients)]


def num_picks(columns: Columns) -> int:
    """Return the number of picks."""
    return len(columns.inputs if isinstance(columns, Outer) else columns)


def at(columns: Columns, places: Int[Array | np.ndarray, " places"]) -> Float[Array, "picks places"]:
    """Return the gradients with respect to some rows."""
    if not isinstance(columns, Outer):
        return columns[:, places]
    inputs, slopes, weights = columns
    number_in, number_out = jnp.divmod(places, weights.shape[1])
    values = jnp.take(inputs.T, number_in, axis=0) * jnp.take(slopes.T, number_out, axis=0)
    return (values * weights.reshape(-1)[places, None]).T


def of_pick(columns: Columns, pick: Int[Array, ""] | int) -> Float[Array, "1 rows"]:
    """Return the gradients of one pick."""
    if not isinstance(columns, Outer):
        return jax.lax.dynamic_index_in_dim(columns, pick)
    inputs, slopes, weights = columns
    return (inputs[pick][:, None] * slopes[pick] * weights).reshape(1, -1)


def times(columns: Columns, factors: Float[Array, " rows"]) -> Float[Array, " picks"]:
    """Return the sum over all rows of the gradients times a factor for each row."""
    if not isinstance(columns, Outer):
        return _product(columns, factors)
    inputs, slopes, weights = columns
    return (_product(inputs, weights * factors.reshape(weights.shape)) * slopes).sum(1)


def squares(columns: Columns) -> Columns:
    """Return the squares of the gradients, in the same form."""
    return Outer(*(factor**2 for factor in columns)) if isinstance(columns, Outer) else columns**2


def summed(columns: Columns, scale: Float[Array, " picks"]) -> Float[Array, " rows"]:
    """Return the sum over the picks of the gradients times a number for each pick."""
    if not isinstance(columns, Outer):
        return scale @ columns
    inputs, slopes, weights = columns
    return (((inputs * scale[:, None]).T @ slopes) * weights).reshape(-1)


def _product(rows: Array, factors: Array) -> Array:
    return jnp.matmul(rows, factors, precision="highest")
