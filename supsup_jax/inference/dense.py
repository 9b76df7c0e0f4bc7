"""Gradients of networks of dense layers as factors, so that searches need no array of an image's gradients."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from supsup_jax.bank import bits as banks
from supsup_jax.bank.outer import Outer
from supsup_jax.inference.objectives import Objective
from supsup_jax.methods.supsup import MaskMethod
from supsup_jax.model import Model
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.system import backend


def are_faster(model: Model, picks: int, images_per_pick: int) -> bool:
    """Return whether gradients can be `Outer`, and searches are then faster than with arrays of gradients.

    The matrix products are small: on an accelerator, launching them would take longer than computing them. Banks that
    are divided among devices are multiplied by arrays.
    """
    serves = model.net.is_dense and type(model.method).project is MaskMethod.project and images_per_pick == 1
    return serves and model.shards is None and not backend.is_accelerator() and not banks.prefers_sums(picks)


def arrays_of_pick(model: Model, picks: int, images_per_pick: int, copies: int = 1) -> PyTree[Any]:
    """Return the shapes of the largest arrays of a pick at one superposition: its gradients, or else its scores."""
    if are_faster(model, picks, images_per_pick):
        return jax.ShapeDtypeStruct((copies * model.num_tasks,), jnp.float32)
    return model.weights


def factors_at(
    net: Network,
    effective: Weights,
    stats: Stats,
    image: Float[Array, "1 height width channels"],
    objective: Objective,
) -> PyTree[tuple[Array, Array]]:
    """Return the inputs of every layer, and the derivatives of the objective with respect to its outputs.

    Args:
        net: a network of dense layers.
        effective: the weights that the network uses.
        stats: batch-norm statistics.
        image: a single normalised image.
        objective: the objective.

    Returns:
        A pytree of pairs `(in,)` and `(out,)` in the structure of the weights.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(effective)
    paths = [tuple(entry.key for entry in path) for path, _ in leaves]

    def loss(zeros: dict[Any, Array]) -> tuple[Array, dict[Any, Array]]:
        taps: Any = _Taps(zeros)
        with nn.intercept_methods(taps):
            logits, _ = net.apply(effective, stats, image, train=False)
        return objective(logits).mean(), taps.inputs

    zeros = {path: jnp.zeros((1, leaf.shape[1]), leaf.dtype) for path, (_, leaf) in zip(paths, leaves, strict=True)}
    slopes, inputs = jax.grad(loss, has_aux=True)(zeros)
    return structure.unflatten([(inputs[path][0], slopes[path][0]) for path in paths])


def combined(weights: Weights, factors: PyTree[tuple[Array, Array]]) -> PyTree[Any]:
    """Return gradients of a batch of images as a pytree of `Outer`, given the factors with a leading batch axis."""
    return jax.tree.map(lambda weight, pair: Outer(pair[0], pair[1], weight), weights, factors)


class _Taps:
    """Flax interceptor that keeps the inputs of dense layers, and adds zeros to their outputs.

    The derivatives with respect to the zeros are those with respect to the outputs.

    Args:
        zeros: zeros by the path of the layer's kernel.
    """

    def __init__(self, zeros: dict[tuple[str, ...], Array]):
        self._zeros = zeros
        self.inputs: dict[tuple[str, ...], Array] = {}

    def __call__(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any], context: Any) -> Any:
        outputs = layer(*arguments, **options)
        path = (*context.module.path, "kernel")
        if path not in self._zeros:
            return outputs
        self.inputs[path] = arguments[0]
        return outputs + self._zeros[path]
