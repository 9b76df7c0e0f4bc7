"""Initialisers of weights and scores.

They have the signature of `jax.nn.initializers`: `(key, shape, dtype) -> array`. The fan-in of a kernel `(in, out)` is
the number of its inputs; that of a convolution `(height, width, in, out)` is this number times the window's size.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from supsup_jax.errors import ArgumentError
from supsup_jax.system import numerics

Initializer = Callable[..., Array]

kaiming_normal: Initializer = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""Normal with standard deviation √(2 / fan_in)."""

kaiming_uniform: Initializer = jax.nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
"""Uniform in ±√(6 / fan_in): the same standard deviation as `kaiming_normal`."""

pytorch_default: Initializer = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform in ±1/√fan_in: the default of PyTorch's layers (Kaiming-uniform with a = √5), also used for scores.

The original calls it `default`.
"""

xavier_normal: Initializer = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "normal")
"""Normal with standard deviation √(2 / (fan_in + fan_out))."""

glorot_uniform: Initializer = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
"""Uniform in ±√(6 / (fan_in + fan_out)): the same standard deviation as `xavier_normal`."""


def signed_constant(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "..."]:
    """Return random signs times √(2 / fan_in): all weights of a layer have one magnitude (Section 3.1 of the paper).

    Args:
        key: random key.
        shape: shape `(in, out)` or `(height, width, in, out)`.
        dtype: type of the weights.
    """
    return jax.random.rademacher(key, shape, dtype) * _constant(2.0, shape, dtype)


def xavier_constant(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "..."]:
    """Return random signs times √(1 / fan_in). Arguments are those of `signed_constant`."""
    return jax.random.rademacher(key, shape, dtype) * _constant(1.0, shape, dtype)


def unsigned_constant(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "..."]:
    """Return √(2 / fan_in) for all weights. Arguments are those of `signed_constant`; the key is not used."""
    return jnp.broadcast_to(_constant(2.0, shape, dtype), shape)


InitializerName = Literal[
    "signed_constant",
    "unsigned_constant",
    "kaiming_normal",
    "kaiming_uniform",
    "pytorch_default",
    "xavier_constant",
    "xavier_normal",
    "glorot_uniform",
]

INITIALIZERS: dict[str, Initializer] = {
    "signed_constant": signed_constant,
    "unsigned_constant": unsigned_constant,
    "kaiming_normal": kaiming_normal,
    "kaiming_uniform": kaiming_uniform,
    "pytorch_default": pytorch_default,
    "xavier_constant": xavier_constant,
    "xavier_normal": xavier_normal,
    "glorot_uniform": glorot_uniform,
}
"""Initialisers by name."""


def initializer_of(initializer: Initializer | str) -> Initializer:
    """Return an initialiser by its name.

    Args:
        initializer: one of the names in `INITIALIZERS`, or a function, which is returned unchanged.

    Raises:
        UserError: if there is no initialiser of this name.
    """
    if callable(initializer):
        return cast(Initializer, initializer)
    if initializer not in INITIALIZERS:
        raise ArgumentError(
            "initializer", initializer, f"there is no such initialiser; give a function, or {', '.join(INITIALIZERS)}"
        )
    return INITIALIZERS[initializer]


def _constant(variance: float, shape: tuple[int, ...], dtype: Any) -> Float[Array, ""]:
    """Return √(variance / fan_in)."""
    return jnp.asarray(math.sqrt(variance / math.prod(shape[:-1])), dtype)


@numerics.with_fixed_flags
def draw(key: Key[Array, ""], shapes: PyTree[Any], initializer: Initializer) -> PyTree[Float[Array, "..."]]:
    """Draw each leaf from the key and the leaf's path, so that leaves do not depend on each other.

    A vector has no fan-in; it is drawn as a kernel with one output, whose fan-in is the vector's length.

    Args:
        key: random key.
        shapes: pytree of arrays, or of objects with a shape and a dtype.
        initializer: initialiser of the leaves.
    """

    def leaf(path: tuple[Any, ...], like: Any) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        shape = like.shape if len(like.shape) > 1 else (*like.shape, 1)
        drawn = initializer(jax.random.fold_in(key, zlib.crc32(name.encode())), shape, like.dtype)
        return drawn.reshape(like.shape)

    return jax.tree_util.tree_map_with_path(leaf, shapes)
