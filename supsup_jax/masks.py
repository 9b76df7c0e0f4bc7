"""Scores to masks, masks to bits, and the two products with a bank of masks that inference needs.

A *mask* is a pytree of {0, 1} with the structure of the weights. A *bank* holds the masks of many tasks, one bit
each: every leaf is uint8 of shape `weight.shape + (ceil(tasks / 8),)`, task i being bit `i % 8` of byte `i // 8`.
Bits beyond the last task are 0.

Seen as a matrix of weights × tasks, a bank is multiplied from either side without ever being unpacked whole:
`superpose` is `Σᵢ αᵢ Mᵢ`, `project` is `⟨g, Mᵢ⟩` for every i, and `count` is `superpose` for α of zeros and ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from supsup_jax import backend

Bank = PyTree[UInt8[Array | np.ndarray, "..."]]

# Up to so many images XLA's CPU backend sums each one's bits faster than it multiplies matrices, and counts bits
# faster than it superposes.
_FEW = 2


@jax.custom_jvp
def _non_negative(scores: Array | np.ndarray) -> Array:
    return jnp.asarray(scores >= 0, scores.dtype)


@_non_negative.defjvp
def _straight_through(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _non_negative(primals[0]), tangents[0]


def threshold(scores: PyTree[Float[Array | np.ndarray, "..."]]) -> PyTree[Float[Array, "..."]]:
    """The mask that keeps the weights whose score is at least 0; an exact 0 is kept.

    The gradient passes straight through to the scores, unchanged (Section 3.1 of the paper).

    Args:
        scores: a pytree of scores of any shapes.

    Returns:
        A pytree of the same shapes and types with entries 0 and 1.
    """
    return jax.tree.map(_non_negative, scores)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _largest(scores: Array | np.ndarray, kept: int) -> Array:
    # Floats that are not negative order as their bits do: the smallest magnitude that is kept is found bit by bit.
    bits = jax.lax.bitcast_convert_type(jnp.abs(jnp.asarray(scores, jnp.float32)), jnp.int32).reshape(-1)

    def refine(step: Array, smallest: Array) -> Array:
        candidate = smallest | (1 << (30 - step))
        return jnp.where((bits >= candidate).sum() >= kept, candidate, smallest)

    smallest = jax.lax.fori_loop(0, 31, refine, jnp.int32(0))
    larger, equal = bits > smallest, bits == smallest
    wanted = kept - larger.sum()
    last = jax.lax.cond(
        equal.sum() == wanted,
        lambda: equal,
        lambda: equal & (jnp.cumsum(equal[::-1])[::-1] <= wanted),
    )
    return (larger | last).reshape(scores.shape).astype(scores.dtype)


@_largest.defjvp
def _straight_through_magnitude(kept: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _largest(primals[0], kept), tangents[0] * jnp.sign(primals[0])


def num_kept(size: int, density: float) -> int:
    """How many of a layer's weights the mask of a density keeps: `size - int((1 - density) * size)`."""
    return size - int((1 - density) * size)


def top_k(
    scores: PyTree[Float[Array | np.ndarray, "..."]], density: float | PyTree[float]
) -> PyTree[Float[Array, "..."]]:
    """The mask that keeps the weights whose scores are the largest by magnitude, in every layer for itself.

    Exactly `num_kept` are kept; of equal ones those that come later. The gradient passes straight through, times the
    sign of the score (Section 3.1 of the paper; Ramanujan et al., 2020).

    Args:
        scores: a pytree of scores of any shapes.
        density: the fraction that is kept, above 0 and at most 1; one for all layers, or a pytree of one for each.

    Returns:
        A pytree of the same shapes and types with entries 0 and 1.

    Raises:
        ValueError: if a density is out of its range.
    """
    densities = jax.tree.map(lambda _: density, scores) if isinstance(density, int | float) else density
    if not all(0 < one <= 1 for one in jax.tree.leaves(densities)):
        raise ValueError(f"densities are above 0 and at most 1, not {density}")
    return jax.tree.map(lambda leaf, one: _largest(leaf, num_kept(leaf.size, one)), scores, densities)


def erdos_renyi(weights: PyTree[Any], scale: int | float) -> PyTree[float]:
    """The densities of an Erdős–Rényi graph: a layer keeps more of its weights the smaller it is.

    For O outputs, I inputs and a window of kh × kw it is min(0.5, scale · (O + I) / (O · I · kh · kw)); 1 for what is
    no kernel. The original calls the scale "sparsity", and more of it is denser.

    Args:
        weights: a pytree of arrays, or of anything with a shape: kernels `(in, out)` or `(height, width, in, out)`.
        scale: 1 to 32 in the paper.

    Raises:
        ValueError: if the scale is not above 0.
    """
    if not scale > 0:
        raise ValueError(f"the scale is above 0, not {scale}")
    return jax.tree.map(
        lambda leaf: min(0.5, scale * sum(leaf.shape[-2:]) / math.prod(leaf.shape)) if len(leaf.shape) > 1 else 1.0,
        weights,
    )


@dataclass(frozen=True)
class ErdosRenyi:
    """`top_k` with the densities of an Erdős–Rényi graph; hashable.

    Attributes:
        scale: see `erdos_renyi`.
    """

    scale: int | float

    def __call__(self, scores: PyTree[Float[Array | np.ndarray, "..."]]) -> PyTree[Float[Array, "..."]]:
        """The mask of scores."""
        return top_k(scores, erdos_renyi(scores, self.scale))


def pack(masks: PyTree[Array | np.ndarray]) -> Bank:
    """Packs masks into a bank, one bit a mask entry.

    Args:
        masks: a pytree whose leaves have a leading task axis, `(tasks, *weight.shape)`; what is not 0 is a 1.

    Returns:
        The bank: leaves uint8 of shape `(*weight.shape, ceil(tasks / 8))`.
    """
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
    return jax.tree.map(lambda leaf: ((leaf[..., task // 8] >> (task % 8)) & 1).astype(jnp.float32), bank)


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


def first(bank: Bank, num_tasks: int) -> Bank:
    """The bank of the first `num_tasks` tasks: fewer bytes, and zeros beyond the last task.

    Raises:
        ValueError: if the bank cannot hold so many, or none are asked for.
    """
    if not 1 <= num_tasks <= 8 * bytes_per_weight(bank):
        raise ValueError(f"a bank of {bytes_per_weight(bank)} bytes a weight does not hold {num_tasks} tasks")
    size = -(-num_tasks // 8)
    keep = np.full(size, 0xFF, np.uint8)
    keep[-1:] >>= 8 * size - num_tasks
    return jax.tree.map(lambda leaf: leaf[..., :size] & keep, bank)


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
    """
    if len(chosen) > _FEW:
        return superpose(bank, chosen.astype(jnp.float32))
    spare = -bytes_per_weight(bank) % 4
    picked = jnp.packbits(chosen, axis=-1, bitorder="little")
    picked = _words(jnp.pad(picked, [(0, 0), (0, bytes_per_weight(bank) - picked.shape[-1] + spare)]))

    def leaf_count(leaf: Array) -> Array:
        words = _words(jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, spare)]))
        bits = jax.lax.map(lambda one: jax.lax.population_count(words & one).sum(-1, dtype=jnp.uint32), picked)
        return bits.astype(jnp.float32)

    return jax.tree.map(leaf_count, bank)


def _words(bytes_: Array) -> Array:
    """Four bytes each as one uint32: counting their bits is more than twice as fast."""
    return jax.lax.bitcast_convert_type(bytes_.reshape(*bytes_.shape[:-1], -1, 4), jnp.uint32)


def superpose(bank: Bank, alphas: Float[Array, "batch tasks"]) -> PyTree[Float[Array, "batch ..."]]:
    """The superpositions `Σᵢ αᵢ Mᵢ` of all masks, for a batch of α (Section 3.4 of the paper).

    Args:
        bank: leaves uint8 of shape `(*weight.shape, bytes)`.
        alphas: the coefficients, one row a superposition.

    Returns:
        A pytree of float32 leaves of shape `(batch, *weight.shape)`.
    """
    columns = _to_planes(alphas, bytes_per_weight(bank)).T

    def leaf_superposition(leaf: Array) -> Array:
        def multiply(row: Array) -> Array:
            return jnp.matmul(_bit_planes(row), columns, precision="highest")

        rows = leaf.reshape(-1, leaf.shape[-1])
        mixed = jax.lax.map(multiply, rows, batch_size=_slice_size(bank))
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
    """
    batch = len(jax.tree.leaves(gradients)[0])
    size = _slice_size(bank)
    total = jnp.zeros((batch, 8 * bytes_per_weight(bank)), jnp.float32)
    for leaf, gradient in zip(jax.tree.leaves(bank), jax.tree.leaves(gradients), strict=True):
        rows, columns = leaf.reshape(-1, leaf.shape[-1]), gradient.reshape(batch, -1)
        whole = len(rows) // size

        def add(total: Array, slice_: tuple[Array, Array]) -> tuple[Array, None]:
            return total + _multiply(*slice_), None

        slices = (
            rows[: whole * size].reshape(whole, size, rows.shape[1]),
            columns[:, : whole * size].reshape(batch, whole, size).swapaxes(0, 1),
        )
        total, _ = jax.lax.scan(add, total, slices)
        total += _multiply(rows[whole * size :], columns[:, whole * size :])
    return total.reshape(batch, 8, -1).swapaxes(1, 2).reshape(batch, -1)[:, :num_tasks]


def _multiply(rows: UInt8[Array, "rows bytes"], columns: Float[Array, "batch rows"]) -> Float[Array, "batch tasks"]:
    if len(columns) > _FEW:
        return jnp.matmul(columns, _bit_planes(rows), precision="highest")
    kept = [jnp.where(rows & (1 << bit) != 0, columns[..., None], 0).sum(1) for bit in range(8)]
    return jnp.concatenate(kept, -1)


def _slice_size(bank: Bank) -> int:
    """How many weights of a bank to unpack at once."""
    return max(1, backend.slice_bytes() // (32 * bytes_per_weight(bank)))


def _bit_planes(rows: UInt8[Array, "*rows bytes"]) -> Float[Array, "*rows tasks"]:
    """Bytes to floats, all first bits before all second bits: the order in which unpacking is vectorised."""
    planes = (rows[..., None, :] >> jnp.arange(8, dtype=jnp.uint8)[:, None]) & 1
    return planes.reshape(*rows.shape[:-1], 8 * rows.shape[-1]).astype(jnp.float32)


def _to_planes(values: Float[Array, "batch tasks"], size: int) -> Float[Array, "batch bits"]:
    """Reorders values of tasks as `_bit_planes` orders its bits."""
    values = jnp.pad(values, [(0, 0), (0, 8 * size - values.shape[-1])])
    return values.reshape(len(values), size, 8).swapaxes(1, 2).reshape(len(values), -1)
