"""Masks from scores, with straight-through gradients, and the densities of masks.

A *mask* is a pytree of {0, 1} with the structure of the weights; `supsup_jax.bank` packs the masks of many tasks.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from supsup_jax.arguments import Part


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
def _largest(scores: Array | np.ndarray, kept: int) -> Array:
    # Non-negative floats sort like their bits, so the smallest magnitude to keep is found bit by bit.
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
    return jax.tree.map(lambda leaf, fraction: _largest(leaf, num_kept(leaf.size, fraction)), scores, densities)


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
