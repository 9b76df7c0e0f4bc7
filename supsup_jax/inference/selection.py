"""Selection of the best of many numbers, without sorting them, which is slow on a CPU."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def smallest(values: Float[Array, " values"], number: int) -> Int[Array, " {number}"]:
    """Return the positions of the smallest values, in increasing order; ties go to low positions, and NaN is last.

    Args:
        values: at least `number` values.
        number: the number of positions.
    """
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.uint32)
    key = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(2**31))

    def refine(step: Array, last: Array) -> Array:
        candidate = last | (jnp.uint32(1) << (31 - step).astype(jnp.uint32))
        return jnp.where((key < candidate).sum() < number, candidate, last)

    last = jax.lax.fori_loop(0, 32, refine, jnp.uint32(0))  # the largest of the smallest keys
    less, equal = key < last, key == last
    chosen = less | (equal & (jnp.cumsum(equal) <= number - less.sum()))
    return jnp.flatnonzero(chosen, size=number).astype(jnp.int32)


def threshold(leaves: list[Float[Array, " _"]], number: Int[Array, ""] | int) -> Float[Array, ""]:
    """Return a threshold that at least `number` of some non-negative values reach, and hardly more.

    Its last binary digits are not resolved, since each digit takes a pass over all values.

    Args:
        leaves: the values.
        number: how many values are to reach the threshold.
    """
    keys = [jax.lax.bitcast_convert_type(leaf, jnp.int32) for leaf in leaves]

    def refine(step: Array, found: Array) -> Array:
        candidate = found | (1 << (30 - step))
        enough = sum((key >= candidate).sum() for key in keys) >= number
        return jnp.where(enough, candidate, found)

    found = jax.lax.fori_loop(0, 20, refine, jnp.int32(0))
    return jax.lax.bitcast_convert_type(found, jnp.float32)
