"""Parameter superposition (PSP): one set of weights, which every task sees and trains in a rotation of its own."""

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
    """Superposition of many models into one (Cheung et al., 2019), by rotation: effective weights C W.

    Before every layer, the last too, a task turns the inputs by a random orthogonal matrix C; for convolutions it turns
    the channels. Of a task only the key is kept from which its rotations are drawn. The weights are trained on every
    task in turn, so earlier tasks are forgotten by and by.
    """

    trains_params: ClassVar[bool] = False
    stores: ClassVar[str] = "keys of rotations"

    def trains_weights(self, task: int) -> bool:
        """With every task."""
        return True

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """The key, and the rotations drawn from it."""
        return {"key": jax.random.key_data(key), "rotations": _rotations(key, weights)}

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """The key."""
        return params["key"]

    def effective_weights(self, weights: Weights, adapter: UInt32[Array, " words"]) -> Weights:
        """The rotated weights."""
        key = jax.random.wrap_key_data(adapter, impl="threefry2x32")
        return jax.tree.map(_rotate, weights, _rotations(key, weights))

    def training_weights(self, weights: Weights, params: Params) -> Weights:
        """The rotated weights; of dense layers as products, since turning a batch costs less than turning weights."""

        def product(kernel: Array, rotation: Array) -> Array | Rotated:
            return Rotated(rotation, kernel) if kernel.ndim == 2 else _rotate(kernel, rotation)

        return jax.tree.map(product, weights, params["rotations"])


@numerics.with_fixed_flags
def _rotations(key: Key[Array, ""], weights: Weights) -> dict:
    """For every kernel a random orthogonal matrix over its inputs, uniform by Haar's measure; else a 1."""
    kernels, structure = jax.tree.flatten(weights)
    keys = jax.random.split(key, len(kernels))
    return structure.unflatten(
        jax.random.orthogonal(each, kernel.shape[-2]) if kernel.ndim > 1 else jnp.ones(())
        for each, kernel in zip(keys, kernels, strict=True)
    )


def _rotate(kernel: Array, rotation: Array) -> Array:
    return rotation @ kernel if kernel.ndim > 1 else kernel
