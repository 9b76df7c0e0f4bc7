"""Products of gradients with chosen weights or chosen tasks of a bank, which read only that part of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from supsup_jax.bank import bits as banks
from supsup_jax.bank import gradients
from supsup_jax.bank.gradients import Columns
from supsup_jax.bank.outer import Outer
from supsup_jax.system import backend


def project_chosen(
    rows: UInt8[Array, "rows bytes"], chosen: Bool[Array, " rows"], columns: Columns
) -> Float[Array, "batch 8 bytes"]:
    """Return the products of gradients with the chosen rows of a leaf, summed over these rows.

    The time depends on the number of chosen rows, which may be traced; all shapes are static.

    Args:
        rows: a leaf of a bank, one row for each weight.
        chosen: the rows to read.
        columns: the gradients with respect to the weights of the leaf.

    Returns:
        The sums, task i at bit `i % 8` and byte `i // 8`.
    """
    batch = gradients.num_picks(columns)
    sums = banks.prefers_sums(batch)
    side_by_side = banks.sums_at_once(rows)
    size = 16 * side_by_side if sums else min(banks.slice_size(rows), max(1, backend.slice_bytes() // (4 * batch)))
    number = chosen.sum()
    order = jnp.pad(jnp.flatnonzero(chosen, size=len(chosen), fill_value=0), (0, -len(chosen) % size))

    def add(index: Array, total: Array) -> Array:
        places = index * size + jnp.arange(size)
        read = jax.lax.dynamic_slice_in_dim(order, index * size, size)
        values = jnp.where((places < number)[None], gradients.at(columns, read), 0)
        block = jnp.take(rows, read, axis=0)
        if not sums:
            return total + banks.product_with_bits(values, block).reshape(total.shape)
        for first in range(0, size, side_by_side):
            total += banks.kept(block[first : first + side_by_side], values[:, first : first + side_by_side])
        return total

    shape = (batch, side_by_side, 8, rows.shape[1]) if sums else (batch, 8, rows.shape[1])
    total = jax.lax.fori_loop(0, -(-number // size), add, jnp.zeros(shape, jnp.float32))
    return total.sum(1) if sums else total


def project_to(
    rows: UInt8[Array, "rows bytes"], tasks: Int[Array, " tasks"], columns: Columns
) -> Float[Array, "batch tasks"]:
    """Return the products of gradients with the masks of some tasks, over all rows of a leaf.

    Args:
        rows: a leaf of a bank, one row for each weight.
        tasks: the tasks.
        columns: the gradients with respect to the weights of the leaf.
    """
    byte, bit = tasks // 8, (tasks % 8).astype(jnp.uint8)[None]

    def masks(rows: Array) -> Array:
        return ((jnp.take(rows, byte, axis=1) >> bit) & 1).astype(jnp.float32)

    zeros = jnp.zeros((gradients.num_picks(columns), len(tasks)), jnp.float32)
    if isinstance(columns, Outer):
        inputs, slopes, weights = columns
        layer = rows.reshape(*weights.shape, -1)

        def add_input(number: Array, total: Array) -> Array:
            kept = masks(layer[number]) * weights[number][:, None]
            return total + inputs[:, number, None] * jnp.matmul(slopes, kept, precision="highest")

        return jax.lax.fori_loop(0, len(weights), add_input, zeros)

    def add(total: Array, rows: Array, columns: Array) -> Array:
        return total + jnp.matmul(columns, masks(rows), precision="highest")

    size = max(1, backend.slice_bytes() // (8 * len(tasks)))
    return add(*banks.over_slices(add, zeros, rows, columns, size))
