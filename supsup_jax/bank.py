"""Masks as bits: a bank holds the masks of many tasks, and has the two products that inference needs.

A *bank* holds one bit for each entry of each task's mask: every leaf is uint8 of shape
`weight.shape + (ceil(tasks / 8),)`, task i being bit `i % 8` of byte `i // 8`. Bits beyond the last task are 0.

Seen as a matrix of weights × tasks, a bank is multiplied from either side without ever being unpacked whole:
`superpose` is `Σᵢ αᵢ Mᵢ`, `project` is `⟨g, Mᵢ⟩` for every i, and `count` is `superpose` for α of zeros and ones.
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

# Up to this number of gradients a CPU sums faster than it multiplies matrices.
_FEW = 8

# So many sums of floats stay in a core's cache.
_SUMS = 2**16


def pack(masks: PyTree[Array | np.ndarray]) -> Bank:
    """Packs masks into a bank, one bit a mask entry.

    Args:
        masks: a pytree whose leaves have a leading task axis, `(tasks, *weight.shape)`; what is not 0 is a 1.

    Returns:
        The bank: leaves uint8 of shape `(*weight.shape, ceil(tasks / 8))`.

    Raises:
        ValueError: if leaves have different numbers of tasks.
    """
    if len(tasks := {leaf.shape[0] for leaf in jax.tree.leaves(masks)}) > 1:
        raise ValueError(f"the masks are of {' and '.join(map(str, sorted(tasks)))} tasks; they must be of the same")
    return jax.tree.map(
        lambda leaf: jnp.packbits(jnp.moveaxis(leaf, 0, -1).astype(bool), axis=-1, bitorder="little"), masks
    )


def unpack(
    bank: Bank, task: int | Int[Array | np.ndarray, ""] | np.integer
) -> PyTree[Float[Array | np.ndarray, "..."]]:
    """The mask of one task, exactly as it was packed.

    Args:
        bank: leaves uint8 of shape `(*weight.shape, bytes)`.
        task: the number of the task. One in a JAX array, which may be traced, is not checked.

    Returns:
        A pytree of float32 leaves of shape `weight.shape`.

    Raises:
        IndexError: if the task lies outside the bank.
    """
    _check_task(bank, task)
    byte, bit = task // 8, task % 8
    bit = bit.astype(jnp.uint8) if isinstance(bit, jax.Array) else np.uint8(bit)  # on the host what lies there
    return jax.tree.map(lambda leaf: ((leaf[..., byte] >> bit) & 1).astype(jnp.float32), bank)


def _check_task(bank: Bank, task: Any) -> None:
    capacity = 8 * bytes_per_weight(bank)
    if not isinstance(task, jax.Array) and not 0 <= task < capacity:
        raise IndexError(f"task {task} is not in a bank of at most {capacity} tasks")


def replace(bank: Bank, task: int | Int[Array | np.ndarray, ""], mask: PyTree[Array | np.ndarray]) -> Bank:
    """The bank with another mask for one task: one bit of each weight changes.

    Args:
        bank: leaves uint8 of shape `(*weight.shape, bytes)`.
        task: the number of the task. One in a JAX array, which may be traced, is not checked.
        mask: leaves of shape `weight.shape`; what is not 0 is a 1.

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
    """One bank of the tasks of `bank` followed by those of `more`. See `concatenate`."""
    return concatenate([bank, more], [num_tasks, num_more])


def concatenate(banks: Sequence[Bank], num_tasks: Sequence[int]) -> Bank:
    """One bank of all tasks, in order, whatever the number of tasks in each.

    Args:
        banks: banks over the same weights; what is given as NumPy arrays stays on the host.
        num_tasks: how many tasks each of them holds.

    Raises:
        ValueError: if a bank holds fewer bytes than its number of tasks needs, or the lengths differ.
    """

    def join(*leaves: Any) -> Any:
        xp = leaves[0].__array_namespace__()
        none = xp.zeros((*leaves[0].shape[:-1], 1), xp.uint8)
        pieces: list[Any] = []
        total = 0
        for leaf, tasks in zip(leaves, num_tasks, strict=True):
            if shift := total % 8:
                # The first bits go to the byte that the tasks before them have left unfinished.
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
    """The bank of the first `num_tasks` tasks: fewer bytes, and zeros beyond the last task.

    Raises:
        ValueError: if the bank cannot hold `num_tasks` tasks, or `num_tasks` is 0.
    """
    keep = np.full(-(-num_tasks // 8), 0xFF, np.uint8)
    keep[-1:] >>= -num_tasks % 8
    return jax.tree.map(lambda leaf: leaf & keep, narrow(bank, num_tasks))


def narrow(bank: Bank, num_tasks: int) -> Bank:
    """The bytes that hold the first `num_tasks` tasks, as they are; a bank that has no more is not copied.

    Raises:
        ValueError: as `first`.
    """
    _check_count(bank, num_tasks)
    return jax.tree.map(lambda leaf: leaf[..., : -(-num_tasks // 8)], bank)


def bytes_per_weight(bank: Bank) -> int:
    """How many bytes a bank holds for each weight."""
    return jax.tree.leaves(bank)[0].shape[-1]


def count(bank: Bank, chosen: Bool[Array, "batch tasks"]) -> PyTree[Float[Array, "batch ..."]]:
    """How many of the chosen tasks keep each weight: the superposition at uniform α, times their number.

    Exact, since it counts: a sum of floats over thousands of masks is not.

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


def _count_common(rows: UInt8[Array, "*rows bytes"], one: UInt8[Array, " bytes"]) -> Float[Array, "*rows"]:
    """How many bits each row has in common with one.

    XLA's CPU backend counts bits, and sums along the last axis, one by one. Pieces of the rows are therefore counted
    and added element by element, before what is left is summed: 16 of at most 8 bits stay below 256.
    """

    def piece(first: int, stop: int) -> Array:
        common = rows[..., first:stop] & one[(None,) * (rows.ndim - 1) + (slice(first, stop),)]
        pairs = common - ((common >> 1) & 0x55)
        quads = (pairs & 0x33) + ((pairs >> 2) & 0x33)
        return (quads + (quads >> 4)) & 0x0F

    size = len(one) // 16
    added = sum((piece(number * size, (number + 1) * size) for number in range(1, 16)), piece(0, size))
    total = added.sum(-1, dtype=jnp.uint32) + piece(16 * size, len(one)).sum(-1, dtype=jnp.uint32)
    return total.astype(jnp.float32)


def superpose(bank: Bank, alphas: Float[Array, "batch tasks"]) -> PyTree[Float[Array, "batch ..."]]:
    """The superpositions `Σᵢ αᵢ Mᵢ` of all masks, for a batch of α (Section 3.3 of the paper).

    Args:
        bank: leaves uint8 of shape `(*weight.shape, bytes)`.
        alphas: the coefficients, one row a superposition.

    Returns:
        A pytree of float32 leaves of shape `(batch, *weight.shape)`.

    Raises:
        ValueError: if there are no rows, or more tasks than the bank can hold.
    """
    _check_batch(bank, alphas)
    columns = _to_planes(alphas, bytes_per_weight(bank)).T

    def leaf_superposition(leaf: Array) -> Array:
        def multiply(row: Array) -> Array:
            return jnp.matmul(_bit_planes(row), columns, precision="highest")

        rows = leaf.reshape(-1, leaf.shape[-1])
        mixed = jax.lax.map(multiply, rows, batch_size=_slice_size(rows))
        return mixed.T.reshape(len(alphas), *leaf.shape[:-1])

    return jax.tree.map(leaf_superposition, bank)


def project(
    bank: Bank, gradients: PyTree[Float[Array | np.ndarray, "batch ..."]], num_tasks: int
) -> Float[Array, "batch {num_tasks}"]:
    """The inner products `⟨g, Mᵢ⟩` of a batch of gradients with every mask.

    With g = ∂L/∂W̃ ⊙ W this is ∂L/∂αᵢ for every task i, from one backward pass.

    Args:
        bank: leaves uint8 of shape `(*weight.shape, bytes)`.
        gradients: leaves of shape `(batch, *weight.shape)`.
        num_tasks: how many tasks the bank holds.

    Raises:
        ValueError: if the bank cannot hold `num_tasks` tasks.
    """
    _check_count(bank, num_tasks)
    batch = len(jax.tree.leaves(gradients)[0])
    few = batch <= _FEW and not backend.is_accelerator()
    total = jnp.zeros((batch, 8, bytes_per_weight(bank)), jnp.float32)
    for leaf, gradient in zip(jax.tree.leaves(bank), jax.tree.leaves(gradients), strict=True):
        rows, columns = leaf.reshape(-1, leaf.shape[-1]), gradient.reshape(batch, -1)
        total += (_summed if few else _multiplied)(rows, columns)
    return total.swapaxes(1, 2).reshape(batch, -1)[:, :num_tasks]


def _multiplied(rows: UInt8[Array, "rows bytes"], columns: Float[Array, "batch rows"]) -> Float[Array, "batch 8 bytes"]:
    """`project` as a product of matrices, of slices of the bank that are unpacked."""

    def add(total: Array, rows: Array, columns: Array) -> Array:
        product = _rounded_product if backend.is_accelerator() else partial(jnp.matmul, precision="highest")
        return total + product(columns, _bit_planes(rows)).reshape(total.shape)

    zeros = jnp.zeros((len(columns), 8, rows.shape[1]), jnp.float32)
    return add(*_over_slices(add, zeros, rows, columns, _slice_size(rows)))


def _rounded_product(
    columns: Float[Array, "batch rows"], bits: Float[Array, "rows tasks"]
) -> Float[Array, "batch tasks"]:
    """The product with zeros and ones, by an accelerator's units for bfloat16, and as exact as by those for float32.

    A float32 is the sum of three bfloat16, and products are summed as float32.
    """
    parts = []
    for _ in range(3):
        parts.append(jax.lax.reduce_precision(columns, exponent_bits=8, mantissa_bits=7))
        columns = columns - parts[-1]
    left, right = jnp.concatenate(parts).astype(jnp.bfloat16), bits.astype(jnp.bfloat16)
    return jnp.matmul(left, right, preferred_element_type=jnp.float32).reshape(3, len(columns), -1).sum(0)


def _summed(rows: UInt8[Array, "rows bytes"], columns: Float[Array, "batch rows"]) -> Float[Array, "batch 8 bytes"]:
    """`project` as sums, element by element: faster for few gradients than unpacking, which has to write floats.

    XLA's CPU backend sums along an axis one by one. So as many sums as stay in the cache go on side by side, 16 rows
    of each at a time, and are summed up at the end.
    """
    bits = jnp.asarray(1 << np.arange(8), jnp.uint8)[None, :, None]
    abreast = max(1, _SUMS // (8 * rows.shape[1]))

    def kept(rows: Array, columns: Array) -> Array:
        return jnp.where(rows[:, None] & bits != 0, columns[..., None, None], 0)

    def add(sums: Array, rows: Array, columns: Array) -> Array:
        for first in range(0, 16 * abreast, abreast):
            sums += kept(rows[first : first + abreast], columns[:, first : first + abreast])
        return sums

    zeros = jnp.zeros((len(columns), abreast, 8, rows.shape[1]), jnp.float32)
    sums, *rest = _over_slices(add, zeros, rows, columns, 16 * abreast)
    return sums.sum(1) + kept(*rest).sum(1)


def _over_slices(
    add: Callable[[Array, Array, Array], Array], total: Array, rows: Array, columns: Array, size: int
) -> tuple[Array, Array, Array]:
    """Adds slices of `size` rows to a total; gives it with the rows and columns that remain."""
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


def _slice_size(rows: UInt8[Array, "rows bytes"]) -> int:
    """How many weights of a bank to unpack at once."""
    return max(1, backend.slice_bytes() // (32 * rows.shape[1]))


def _bit_planes(rows: UInt8[Array, "*rows bytes"]) -> Float[Array, "*rows tasks"]:
    """Bytes to floats, all first bits before all second bits: the order in which unpacking is vectorised."""
    bits = jnp.arange(8, dtype=jnp.uint8).reshape(*(1,) * (rows.ndim - 1), 8, 1)
    planes = (rows[..., None, :] >> bits) & 1
    return planes.astype(jnp.float32).reshape(*rows.shape[:-1], 8 * rows.shape[-1])


def _to_planes(values: Float[Array, "batch tasks"], size: int) -> Float[Array, "batch bits"]:
    """Reorders values of tasks as `_bit_planes` orders its bits."""
    values = jnp.pad(values, [(0, 0), (0, 8 * size - values.shape[-1])])
    return values.reshape(len(values), size, 8).swapaxes(1, 2).reshape(len(values), -1)
