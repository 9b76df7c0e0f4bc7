"""Parameter superposition (PSP): all tasks train one set of weights, each through a different rotation."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt32

from supsup_jax.methods.base import Adapter, Carry, Method, Params
from supsup_jax.networks import Rotated, Weights
from supsup_jax.system import numerics


@dataclass(frozen=True)
class PSP(Method):
    """Superposition of many models into one (Cheung et al., 2019), by rotations: effective weights C W.

    Each task multiplies the inputs of every layer, including the last, by a random orthogonal matrix C; in convolutions
    it rotates the channels. The adapter is the random key from which the rotations are drawn. Every task trains the
    weights in turn, so earlier tasks are gradually forgotten.
    """

    trains_params: ClassVar[bool] = False
    stores: ClassVar[str] = "keys of rotations"

    def trains_weights(self, task: int) -> bool:
        """Return True: every task trains the base weights."""
        return True

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Return the key, and the rotations drawn from it."""
        return {"key": jax.random.key_data(key), "rotations": _rotations(key, weights)}

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """Return the key."""
        return params["key"]

    def effective_weights(self, weights: Weights, adapter: UInt32[Array, " words"]) -> Weights:
        """Return the rotated weights."""
        key = jax.random.wrap_key_data(adapter, impl="threefry2x32")
        return jax.tree.map(_rotate, weights, _rotations(key, weights))

    def training_weights(self, weights: Weights, params: Params) -> Weights:
        """Return the rotated weights. Dense layers stay products: rotating a batch is cheaper than rotating weights."""

        def product(kernel: Array, rotation: Array) -> Array | Rotated:
            return Rotated(rotation, kernel) if kernel.ndim == 2 else _rotate(kernel, rotation)

        return jax.tree.map(product, weights, params["rotations"])


@numerics.with_fixed_flags
def _rotations(key: Key[Array, ""], weights: Weights) -> dict:
    """Draw a random orthogonal matrix (Haar) over the inputs of each kernel, and a 1 for each other leaf."""
    kernels, structure = jax.tree.flatten(weights)
    keys = jax.random.split(key, len(kernels))
    return structure.unflatten(
        jax.random.orthogonal(kernel_key, kernel.shape[-2]) if kernel.ndim > 1 else jnp.ones(())
        for kernel_key, kernel in zip(keys, kernels, strict=True)
    )


def _rotate(kernel: Array, rotation: Array) -> Array:
    return rotation @ kernel if kernel.ndim > 1 else kernel
