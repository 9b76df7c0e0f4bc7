"""Banks of masks: the masks of many tasks, packed into bits, with the two products that inference needs.

A *bank* holds one bit for each entry of each task's mask. Every leaf is uint8 of shape
`weight.shape + (ceil(tasks / 8),)`, and task i is bit `i % 8` of byte `i // 8`. Bits beyond the last task are 0.

As a matrix of weights × tasks, a bank is multiplied from either side without being unpacked as a whole:
`superpose` computes `Σᵢ αᵢ Mᵢ`, `project` computes `⟨g, Mᵢ⟩` for every i, and `count` is `superpose` for α of 0 and 1.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from supsup_jax.system import backend

Bank = PyTree[UInt8[Array | np.ndarray, "..."]]

# For at most this number of gradients, sums are faster on a CPU than a matrix product.
_MOST_SUMMED = 8

# This number of float sums fits in the cache of a core.
_SUMS = 2**16


def pack(masks: PyTree[Array | np.ndarray]) -> Bank:
    """Pack masks into a bank, one bit for each mask entry.

    Args:
        masks: a pytree whose leaves have a leading task axis, `(tasks, *weight.shape)`; nonzero entries count as 1.

    Returns:
        The bank: leaves uint8 of shape `(*weight.shape, ceil(tasks / 8))`.

    Raises:
        ValueError: if leaves have different numbers of tasks.
    """
    if len(tasks := {leaf.shape[0] for leaf in jax.tree.leaves(masks)}) > 1:
        raise ValueError(f"the masks are of {' and '.join(map(str, sorted(tasks)))} tasks; give the same number in all")
    return jax.tree.map(
        lambda leaf: jnp.packbits(jnp.moveaxis(leaf, 0, -1).astype(bool), axis=-1, bitorder="little"), masks
    )


def unpack(
    bank: Bank, task: int | Int[Array | np.ndarray, ""] | np.integer
) -> PyTree[Float[Array | np.ndarray, "..."]]:
    """Return the mask of one task, exactly as it was packed.

    Args:
        bank: leaves uint8 of shape `(*weight.shape, bytes)`.
        task: the number of the task. A task in a JAX array, which may be traced, is not checked.

    Returns:
        A pytree of float32 leaves of shape `weight.shape`.

    Raises:
        IndexError: if the task lies outside the bank.
    """
    _check_task(bank, task)
    byte, bit = task // 8, task % 8
    bit = bit.astype(jnp.uint8) if isinstance(bit, jax.Array) else np.uint8(bit)  # NumPy banks stay on the host
    return jax.tree.map(lambda leaf: ((leaf[..., byte] >> bit) & 1).astype(jnp.float32), bank)


def _check_task(bank: Bank, task: Any) -> None:
    capacity = 8 * bytes_per_weight(bank)
    if not isinstance(task, jax.Array) and not 0 <= task < capacity:
        raise IndexError(f"task {task} is not in this bank of at most {capacity} tasks")


def replace(bank: Bank, task: int | Int[Array | np.ndarray, ""], mask: PyTree[Array | np.ndarray]) -> Bank:
    """Return the bank with a different mask for one task: one bit of each weight changes.

    Args:
        bank: leaves uint8 of shape `(*weight.shape, bytes)`.
        task: the number of the task. A task in a JAX array, which may be traced, is not checked.
        mask: leaves of shape `weight.shape`; nonzero entries count as 1.

    Raises:
        IndexError: if the task lies outside the bank.
    """
    _check_task(bank, task)
    byte, bit = task // 8, jnp.asarray(task % 8, jnp.uint8)

    def leaf(old: Any, new: Any) -> Array:
        column = jax.lax.dynamic_index_in_dim(old, byte, axis=-1, keepdims=False)
        changed = (column & ~(jnp.uint8(1) << bit)) | ((new != 0).astype(jnp.uint8) << bit)
        return jax.lax.dynamic_update_index_in_dim(old, changed, byte, axis=-1)

    return jax.tree.map(leaf, bank, mask)


def append(bank: Bank, num_tasks: int, more: Bank, num_more: int) -> Bank:
    """Return one bank of the tasks of `bank` followed by the tasks of `more`. See `concatenate`."""
    return concatenate([bank, more], [num_tasks, num_more])


def concatenate(banks: Sequence[Bank], num_tasks: Sequence[int]) -> Bank:
    """Return one bank of all tasks, in order, for any number of tasks in each bank.

    Args:
        banks: banks over the same weights; NumPy arrays stay on the host.
        num_tasks: the number of tasks in each bank.

    Raises:
        ValueError: if a bank holds fewer bytes than its number of tasks requires, or the lengths differ.
    """

    def join(*leaves: Any) -> Any:
        xp = leaves[0].__array_namespace__()
        none = xp.zeros((*leaves[0].shape[:-1], 1), xp.uint8)
        pieces: list[Any] = []
        total = 0
        for leaf, tasks in zip(leaves, num_tasks, strict=True):
            if shift := total % 8:
                # The first bits fill up the last byte of the preceding tasks.
                leaf = (xp.concat([leaf, none], axis=-1) << shift) | (xp.concat([none, leaf], axis=-1) >> (8 - shift))
                unfinished = pieces[-1]
                pieces[-1] = xp.concat([unfinished[..., :-1], unfinished[..., -1:] | leaf[..., :1]], axis=-1)
                leaf = leaf[..., 1:]
            if new := -(-(total + tasks) // 8) - -(-total // 8):
                pieces.append(leaf[..., :new])
            total += tasks
        return xp.concat(pieces, axis=-1)

    return jax.tree.map(join, *(first(bank, tasks) for bank, tasks in zip(banks, num_tasks, strict=True)))


def _check_count(bank: Bank, num_tasks: int) -> None:
    if not 1 <= num_tasks <= 8 * bytes_per_weight(bank):
        raise ValueError(f"a bank of {bytes_per_weight(bank)} bytes a weight does not hold {num_tasks} tasks")


def _check_batch(bank: Bank, rows: Any) -> None:
    if not len(rows):
        raise ValueError("there are no superpositions; give a row for each")
    _check_count(bank, rows.shape[-1])


def first(bank: Bank, num_tasks: int) -> Bank:
    """Return the bank of the first `num_tasks` tasks, with fewer bytes and zeros beyond the last task.

    Raises:
        ValueError: if the bank cannot hold `num_tasks` tasks, or `num_tasks` is 0.
    """
    keep = np.full(-(-num_tasks // 8), 0xFF, np.uint8)
    keep[-1:] >>= -num_tasks % 8
    return jax.tree.map(lambda leaf: leaf & keep, narrow(bank, num_tasks))


def narrow(bank: Bank, num_tasks: int) -> Bank:
    """Return the bytes that hold the first `num_tasks` tasks, unchanged; without surplus bytes nothing is copied.

    Raises:
        ValueError: as in `first`.
    """
    _check_count(bank, num_tasks)
    return jax.tree.map(lambda leaf: leaf[..., : -(-num_tasks // 8)], bank)


def take(bank: Bank, tasks: Int[Array, " chosen"]) -> Bank:
    """Return the bank of some tasks, in the given order.

    Args:
        bank: leaves uint8 of shape `(*weight.shape, bytes)`.
        tasks: the numbers of the tasks.
    """
    tasks = jnp.pad(tasks, (0, -len(tasks) % 8))
    byte, shift = tasks // 8, (tasks % 8).astype(jnp.uint8)

    def leaf(rows: Array) -> Array:
        # One byte for every eight tasks, element by element: XLA's CPU backend is slow at `packbits`.
        columns = (rows.at[..., byte[bit::8]].get(mode="promise_in_bounds") for bit in range(8))
        bits = [((column >> shift[bit::8]) & 1) << bit for bit, column in enumerate(columns)]
        return sum(bits[1:], bits[0])

    return jax.tree.map(leaf, bank)


def bytes_per_weight(bank: Bank) -> int:
    """Return the number of bytes that a bank holds for each weight."""
    return jax.tree.leaves(bank)[0].shape[-1]


def count(bank: Bank, chosen: Bool[Array, "batch tasks"]) -> PyTree[Float[Array, "batch ..."]]:
    """Count the chosen tasks that keep each weight: the superposition at uniform α, times their number.

    The count is exact, unlike a sum of floats over thousands of masks.

    Args:
        bank: leaves uint8 of shape `(*weight.shape, bytes)`.
        chosen: which tasks take part, for each of a batch of superpositions.

    Returns:
        A pytree of float32 leaves of shape `(batch, *weight.shape)` with whole numbers.

    Raises:
        ValueError: if there are no rows, or more tasks than the bank can hold.
    """
    _check_batch(bank, chosen)
    picked = jnp.packbits(chosen, axis=-1, bitorder="little")
    picked = jnp.pad(picked, [(0, 0), (0, bytes_per_weight(bank) - picked.shape[-1])])
    return jax.tree.map(lambda leaf: jax.lax.map(partial(_count_common, leaf), picked), bank)


def _count_common(rows: UInt8[Array, "*rows bytes"], mask: UInt8[Array, " bytes"]) -> Float[Array, "*rows"]:
    """Count the bits that each row has in common with a bit mask.

    XLA's CPU backend counts bits, and sums along the last axis, one at a time. Pieces of the rows are therefore counted
    and added element by element before the final sum. A sum of 16 pieces of at most 8 bits stays below 256.
    """

    def piece(first: int, stop: int) -> Array:
        common = rows[..., first:stop] & mask[(None,) * (rows.ndim - 1) + (slice(first, stop),)]
        pairs = common - ((common >> 1) & 0x55)
        quads = (pairs & 0x33) + ((pairs >> 2) & 0x33)
        return (quads + (quads >> 4)) & 0x0F

    size = len(mask) // 16
    added = sum((piece(number * size, (number + 1) * size) for number in range(1, 16)), piece(0, size))
    total = added.sum(-1, dtype=jnp.uint32) + piece(16 * size, len(mask)).sum(-1, dtype=jnp.uint32)
    return total.astype(jnp.float32)


def superpose(bank: Bank, alphas: Float[Array, "batch tasks"]) -> PyTree[Float[Array, "batch ..."]]:
    """Return the superpositions `Σᵢ αᵢ Mᵢ` of all masks, for a batch of α (Section 3.3 of the paper).

    Args:
        bank: leaves uint8 of shape `(*weight.shape, bytes)`.
        alphas: the coefficients, one row for each superposition.

    Returns:
        A pytree of float32 leaves of shape `(batch, *weight.shape)`.

    Raises:
        ValueError: if there are no rows, or more tasks than the bank can hold.
    """
    _check_batch(bank, alphas)
    columns = _to_planes(alphas, bytes_per_weight(bank)).T

    def leaf_superposition(leaf: Array) -> Array:
        def multiply(row: Array) -> Array:
            return jnp.matmul(bit_planes(row), columns, precision="highest")

        rows = leaf.reshape(-1, leaf.shape[-1])
        mixed = jax.lax.map(multiply, rows, batch_size=slice_size(rows))
        return mixed.T.reshape(len(alphas), *leaf.shape[:-1])

    return jax.tree.map(leaf_superposition, bank)


def project(
    bank: Bank, gradients: PyTree[Float[Array | np.ndarray, "batch ..."]], num_tasks: int
) -> Float[Array, "batch {num_tasks}"]:
    """Return the inner products `⟨g, Mᵢ⟩` of a batch of gradients with every mask.

    With g = ∂L/∂W̃ ⊙ W this is ∂L/∂αᵢ for every task i, from one backward pass.

    Args:
        bank: leaves uint8 of shape `(*weight.shape, bytes)`.
        gradients: leaves of shape `(batch, *weight.shape)`.
        num_tasks: the number of tasks in the bank.

    Raises:
        ValueError: if the bank cannot hold `num_tasks` tasks.
    """
    _check_count(bank, num_tasks)
    batch = len(jax.tree.leaves(gradients)[0])
    total = jnp.zeros((batch, 8, bytes_per_weight(bank)), jnp.float32)
    for leaf, gradient in zip(jax.tree.leaves(bank), jax.tree.leaves(gradients), strict=True):
        total += project_rows(leaf.reshape(-1, leaf.shape[-1]), gradient.reshape(batch, -1))
    return total.swapaxes(1, 2).reshape(batch, -1)[:, :num_tasks]


def project_rows(
    rows: UInt8[Array, "rows bytes"], columns: Float[Array, "batch rows"]
) -> Float[Array, "batch 8 bytes"]:
    """Compute `project` for rows of a leaf; the product with task i is at bit `i % 8` and byte `i // 8`."""
    return (_project_by_sums if prefers_sums(len(columns)) else _project_by_product)(rows, columns)


def prefers_sums(batch: int) -> bool:
    """Return whether products with this number of gradients are faster as sums than as a matrix product."""
    return batch <= _MOST_SUMMED and not backend.is_accelerator()


def _project_by_product(
    rows: UInt8[Array, "rows bytes"], columns: Float[Array, "batch rows"]
) -> Float[Array, "batch 8 bytes"]:
    """Compute `project` as a matrix product with unpacked slices of the bank."""

    def add(total: Array, rows: Array, columns: Array) -> Array:
        return total + product_with_bits(columns, rows).reshape(total.shape)

    zeros = jnp.zeros((len(columns), 8, rows.shape[1]), jnp.float32)
    return add(*over_slices(add, zeros, rows, columns, slice_size(rows)))


def product_with_bits(
    columns: Float[Array, "batch rows"], rows: UInt8[Array, "rows bytes"]
) -> Float[Array, "batch tasks"]:
    """Return the matrix product of gradients with rows of a bank, in the order of `bit_planes`."""
    product = _rounded_product if backend.is_accelerator() else partial(jnp.matmul, precision="highest")
    return product(columns, bit_planes(rows))


def _rounded_product(
    columns: Float[Array, "batch rows"], bits: Float[Array, "rows tasks"]
) -> Float[Array, "batch tasks"]:
    """Return the product with a matrix of 0 and 1 as exactly as in float32, on an accelerator's units for bfloat16.

    A float32 is the sum of three bfloat16 numbers, and products are summed in float32.
    """
    parts = []
    for _ in range(3):
        parts.append(jax.lax.reduce_precision(columns, exponent_bits=8, mantissa_bits=7))
        columns = columns - parts[-1]
    split, bits = jnp.concatenate(parts).astype(jnp.bfloat16), bits.astype(jnp.bfloat16)
    return jnp.matmul(split, bits, preferred_element_type=jnp.float32).reshape(3, len(columns), -1).sum(0)


def _project_by_sums(
    rows: UInt8[Array, "rows bytes"], columns: Float[Array, "batch rows"]
) -> Float[Array, "batch 8 bytes"]:
    """Compute `project` as element-wise sums: for few gradients faster than unpacking, which has to write floats.

    XLA's CPU backend sums along an axis one element at a time. So as many sums as fit in the cache are computed side by
    side, each over 16 rows at a time, and are added at the end.
    """
    num_sums = sums_at_once(rows)

    def add(sums: Array, rows: Array, columns: Array) -> Array:
        for first in range(0, 16 * num_sums, num_sums):
            sums += kept(rows[first : first + num_sums], columns[:, first : first + num_sums])
        return sums

    zeros = jnp.zeros((len(columns), num_sums, 8, rows.shape[1]), jnp.float32)
    sums, *remaining = over_slices(add, zeros, rows, columns, 16 * num_sums)
    return sums.sum(1) + kept(*remaining).sum(1)


def kept(rows: UInt8[Array, "rows bytes"], columns: Float[Array, "batch rows"]) -> Float[Array, "batch rows 8 bytes"]:
    """Return each entry of a gradient for the tasks whose masks keep its weight, and 0 for the other tasks."""
    bits = jnp.asarray(1 << np.arange(8), jnp.uint8)[None, :, None]
    return jnp.where(rows[:, None] & bits != 0, columns[..., None, None], 0)


def sums_at_once(rows: UInt8[Array, "rows bytes"]) -> int:
    """Return the number of sums over rows to compute side by side, so that they fit in the cache."""
    return max(1, _SUMS // (8 * rows.shape[1]))


def over_slices(
    add: Callable[[Array, Array, Array], Array], total: Array, rows: Array, columns: Array, size: int
) -> tuple[Array, Array, Array]:
    """Add slices of `size` rows to a total; return it with the remaining rows and columns."""
    slices = len(rows) // size
    if slices:
        total = jax.lax.fori_loop(
            0,
            slices,
            lambda index, total: add(
                total,
                jax.lax.dynamic_slice_in_dim(rows, index * size, size),
                jax.lax.dynamic_slice_in_dim(columns, index * size, size, axis=1),
            ),
            total,
        )
    return total, rows[slices * size :], columns[:, slices * size :]


def slice_size(rows: UInt8[Array, "rows bytes"]) -> int:
    """Return the number of weights of a bank to unpack at once."""
    return max(1, backend.slice_bytes() // (32 * rows.shape[1]))


def bit_planes(rows: UInt8[Array, "*rows bytes"]) -> Float[Array, "*rows tasks"]:
    """Unpack bytes to floats, all first bits before all second bits: in this order unpacking is vectorised."""
    bits = jnp.arange(8, dtype=jnp.uint8).reshape(*(1,) * (rows.ndim - 1), 8, 1)
    planes = (rows[..., None, :] >> bits) & 1
    return planes.astype(jnp.float32).reshape(*rows.shape[:-1], 8 * rows.shape[-1])


def _to_planes(values: Float[Array, "batch tasks"], size: int) -> Float[Array, "batch bits"]:
    """Reorder values of tasks in the order of the bits in `bit_planes`."""
    values = jnp.pad(values, [(0, 0), (0, 8 * size - values.shape[-1])])
    return values.reshape(len(values), size, 8).swapaxes(1, 2).reshape(len(values), -1)
