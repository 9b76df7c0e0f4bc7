"""Masks from scores, with straight-through gradients, and the densities of masks.

A *mask* is a pytree of {0, 1} with the structure of the weights; `supsup_jax.bank` packs the masks of many tasks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from supsup_jax.arguments import Part
from supsup_jax.system import backend

_BLOCK = 1024  # values that an accelerator compares and counts together


@jax.custom_jvp
def _non_negative(scores: Array | np.ndarray) -> Array:
    return jnp.asarray(scores >= 0, scores.dtype)


@_non_negative.defjvp
def _straight_through(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _non_negative(primals[0]), tangents[0]


def threshold(scores: PyTree[Float[Array | np.ndarray, "..."]]) -> PyTree[Float[Array, "..."]]:
    """Return the mask that keeps the weights whose score is at least 0, including exactly 0.

    The gradient passes straight through to the scores, unchanged (Section 3.1 of the paper).

    Args:
        scores: a pytree of scores of any shapes.

    Returns:
        A pytree of the same shapes and types with entries 0 and 1.
    """
    return jax.tree.map(_non_negative, scores)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _largest(layers: tuple[Array | np.ndarray, ...], kept: tuple[int, ...]) -> tuple[Array, ...]:
    # Non-negative floats sort like their bits.
    bits = [jax.lax.bitcast_convert_type(jnp.abs(jnp.asarray(x, jnp.float32)), jnp.int32).reshape(-1) for x in layers]
    # Launches of kernels cost an accelerator more than memory traffic, and the reverse holds for a CPU.
    found = _largest_together(bits, kept) if backend.is_accelerator() else map(_largest_of_layer, bits, kept)
    return tuple(mask.reshape(x.shape).astype(x.dtype) for mask, x in zip(found, layers, strict=True))


@_largest.defjvp
def _straight_through_magnitude(kept: tuple[int, ...], primals: Any, tangents: Any) -> tuple[Any, Any]:
    signed = jax.tree.map(lambda tangent, scores: tangent * jnp.sign(scores), tangents[0], primals[0])
    return _largest(primals[0], kept), signed


def _largest_of_layer(bits: Int[Array, " size"], kept: int) -> Bool[Array, " size"]:
    """Return the mask of the largest values of one layer; their minimum is found bit by bit."""

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
    return larger | last


def _largest_together(layers: Sequence[Int[Array, " _"]], kept: Sequence[int]) -> list[Bool[Array, " _"]]:
    """Return the masks of the largest values of all layers, in few passes over blocks of all layers' values.

    A second search finds the first of the values that are equal to the smallest one and are still kept.
    """
    sizes = [-(-bits.size // _BLOCK) for bits in layers]
    layer_of = np.repeat(np.arange(len(layers)), sizes)

    def in_blocks(layers: Sequence[Array]) -> Array:
        padded = (jnp.pad(x, (0, -x.size % _BLOCK), constant_values=-1).reshape(-1, _BLOCK) for x in layers)
        return jnp.concatenate([*padded])

    bits, wanted = in_blocks(layers), jnp.asarray(kept, jnp.int32)
    index = in_blocks([jnp.arange(x.size, dtype=jnp.int32) for x in layers])
    smallest = _kth_largest(bits, layer_of, wanted)[layer_of][:, None]
    larger, equal = bits > smallest, bits == smallest
    wanted -= _sum_of_layers(larger.sum(1, dtype=jnp.int32), layer_of, len(layers))
    last = _kth_largest(jnp.where(equal, index, -1), layer_of, wanted)[layer_of][:, None]
    mask = larger | (equal & (index >= last))
    return [rows.reshape(-1)[: x.size] for rows, x in zip(jnp.split(mask, np.cumsum(sizes)[:-1]), layers, strict=True)]


def _kth_largest(
    rows: Int[Array, "rows block"], layer_of: np.ndarray, ranks: Int[Array, " layers"]
) -> Int[Array, " layers"]:
    """Return for each layer the value of a rank among non-negative integers, found four bits at a time.

    Args:
        rows: the values, in blocks that belong to one layer; negative values do not count.
        layer_of: the layer of each block.
        ranks: the rank for each layer, from 1.
    """
    value = jnp.zeros(len(ranks), jnp.int32)
    for shift in range(28, -1, -4):
        steps = np.arange(1, 16 if shift < 28 else 8, dtype=np.int32) << shift
        candidates = value[:, None] | steps
        not_smaller = (rows[:, None, :] >= candidates[layer_of][:, :, None]).sum(-1, dtype=jnp.int32)
        enough = _sum_of_layers(not_smaller, layer_of, len(ranks)) >= ranks[:, None]
        value |= enough.sum(-1, dtype=jnp.int32) << shift
    return value


def _sum_of_layers(counts: Int[Array, "rows ..."], layer_of: np.ndarray, layers: int) -> Int[Array, "{layers} ..."]:
    """Return the sums of the counts of each layer's blocks."""
    return jax.ops.segment_sum(counts, layer_of, layers, indices_are_sorted=True)


def num_kept(size: int, density: int | float) -> int:
    """Return the number of a layer's weights that a mask of a density keeps: `size - int((1 - density) * size)`."""
    return size - int((1 - density) * size)


def top_k(
    scores: PyTree[Float[Array | np.ndarray, "..."]], density: float | PyTree[float]
) -> PyTree[Float[Array, "..."]]:
    """Return the mask that keeps the weights with the largest scores by magnitude, separately in every layer.

    Exactly `num_kept` weights are kept; ties are broken in favour of later weights. The gradient passes straight
    through, times the sign of the score (Section 3.1 of the paper; Ramanujan et al., 2020).

    Args:
        scores: a pytree of scores of any shapes.
        density: the fraction to keep, above 0 and at most 1; one for all layers, or a pytree with one for each layer.

    Returns:
        A pytree of the same shapes and types with entries 0 and 1.

    Raises:
        ValueError: if a density is out of range.
    """
    densities = jax.tree.map(lambda _: density, scores) if isinstance(density, int | float) else density
    if not all(0 < fraction <= 1 for fraction in jax.tree.leaves(densities)):
        raise ValueError(f"density {density}: must be above 0 and at most 1")
    leaves, structure = jax.tree.flatten(scores)
    kept = tuple(num_kept(leaf.size, density) for leaf, density in zip(leaves, jax.tree.leaves(densities), strict=True))
    return jax.tree.unflatten(structure, _largest(tuple(leaves), kept))


def erdos_renyi(weights: PyTree[Any], scale: int | float) -> PyTree[float]:
    """Return the densities of an Erdős–Rényi graph: smaller layers keep a larger fraction of their weights.

    With O outputs, I inputs and a window of kh × kw, the density is min(0.5, scale · (O + I) / (O · I · kh · kw)); for
    leaves other than kernels it is 1. The original calls the scale "sparsity", but a larger scale is denser.

    Args:
        weights: a pytree of arrays, or objects with a shape: kernels `(in, out)` or `(height, width, in, out)`.
        scale: 1 to 32 in the paper.

    Raises:
        ValueError: if the scale is not positive.
    """
    if not scale > 0:
        raise ValueError(f"scale {scale}: must be positive")
    return jax.tree.map(
        lambda leaf: (
            min(0.5, scale * sum(leaf.shape[-2:]) / max(1, math.prod(leaf.shape))) if len(leaf.shape) > 1 else 1.0
        ),
        weights,
    )


@dataclass(frozen=True)
class TopK(Part):
    """`top_k` with one density for all layers; hashable.

    Attributes:
        density: the fraction of its weights that every layer keeps, above 0 and at most 1.
    """

    density: float

    def __call__(self, scores: PyTree[Float[Array | np.ndarray, "..."]]) -> PyTree[Float[Array, "..."]]:
        """Return the mask for the given scores."""
        return top_k(scores, self.density)

    def densities(self, weights: PyTree[Any]) -> PyTree[float]:
        """Return the fraction of each leaf of the weights that a mask keeps."""
        return jax.tree.map(lambda _: self.density, weights)


@dataclass(frozen=True)
class ErdosRenyi(Part):
    """`top_k` with the densities of an Erdős–Rényi graph; hashable.

    Attributes:
        scale: see `erdos_renyi`.
    """

    scale: float | int

    def __call__(self, scores: PyTree[Float[Array | np.ndarray, "..."]]) -> PyTree[Float[Array, "..."]]:
        """Return the mask for the given scores."""
        return top_k(scores, self.densities(scores))

    def densities(self, weights: PyTree[Any]) -> PyTree[float]:
        """Return the fraction of each leaf of the weights that a mask keeps."""
        return erdos_renyi(weights, self.scale)
