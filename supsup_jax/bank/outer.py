"""Products of a bank with gradients that are outer products, which are never formed: those of dense layers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, UInt8

from supsup_jax.bank import bits as banks


class Outer(NamedTuple):
    """Gradients of single images with respect to the kernel of a dense layer, as factors: `inputs slopesᵀ ⊙ weights`.

    Attributes:
        inputs: inputs of the layer for each image.
        slopes: derivatives with respect to the outputs of the layer, for each image.
        weights: base weights of the layer.
    """

    inputs: Float[Array, "batch in"]
    slopes: Float[Array, "batch out"]
    weights: Float[Array, "in out"]


def are_outer(gradients: PyTree[Any]) -> bool:
    """Return whether the leaves of a pytree of gradients are `Outer`, rather than arrays."""
    return all(isinstance(leaf, Outer) for leaf in leaves(gradients))


def leaves(gradients: PyTree[Any]) -> list[Any]:
    """Return the leaves of a pytree of gradients: arrays, or `Outer` as a whole."""
    return jax.tree.leaves(gradients, is_leaf=lambda leaf: isinstance(leaf, Outer))


def project(bank: banks.Bank, gradients: PyTree[Any], num_tasks: int) -> Float[Array, "batch {num_tasks}"]:
    """Return the inner products with every mask, as `bank.project` does, without an array of the gradients.

    Args:
        bank: leaves uint8 of shape `(in, out, bytes)`.
        gradients: a pytree of `Outer`.
        num_tasks: the number of tasks in the bank.

    Raises:
        ValueError: if the bank cannot hold `num_tasks` tasks.
    """
    bank = banks.narrow(bank, num_tasks)
    pairs = zip(jax.tree.leaves(bank), leaves(gradients), strict=True)
    layers = [_project_layer(rows, *factors) for rows, factors in pairs]
    planes = sum(layers[1:], layers[0]).reshape(len(layers[0]), 8, -1)
    return planes.swapaxes(1, 2).reshape(len(planes), -1)[:, :num_tasks]


def _project_layer(
    rows: UInt8[Array, "in out bytes"],
    inputs: Float[Array, "batch in"],
    slopes: Float[Array, "batch out"],
    weights: Float[Array, "in out"],
) -> Float[Array, "batch tasks"]:
    """Return the products for one layer, in the order of `bank.bit_planes`.

    With the input xⱼ of an image and its slopes δₒ they are Σⱼ xⱼ Σₒ δₒ Wⱼₒ Mⱼₒ, a matrix product for each input.
    Inputs that are the same for all images, such as pixels that are black in all of them, share one matrix product.
    """
    is_same = (inputs == inputs[:1]).all(0)
    order = jnp.argsort(is_same)
    num_varying = (~is_same).sum()

    def masked(number: Array) -> Array:
        return weights[number][:, None] * banks.bit_planes(rows[number])

    def multiply(values: Array) -> Array:
        return jnp.matmul(slopes, values, precision="highest")

    def add_varying(index: Array, total: Array) -> Array:
        number = order[index]
        return total + inputs[:, number, None] * multiply(masked(number))

    def add_same(index: Array, total: Array) -> Array:
        number = order[index]
        return total + inputs[0, number] * masked(number)

    tasks = 8 * rows.shape[-1]
    varying = jax.lax.fori_loop(0, num_varying, add_varying, jnp.zeros((len(inputs), tasks), jnp.float32))
    same = jax.lax.fori_loop(num_varying, len(order), add_same, jnp.zeros((slopes.shape[1], tasks), jnp.float32))
    return varying + multiply(same)
