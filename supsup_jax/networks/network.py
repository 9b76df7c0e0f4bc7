"""A network as a pure function of its weights.

Networks know nothing of masks, tasks or methods: a method hands in the weights that the network runs with.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from supsup_jax.networks.initializers import Initializer, draw, signed_constant


class Rotated(NamedTuple):
    """The kernel of a dense layer as the product `rotation @ kernel`, to be multiplied by a batch from the left.

    Attributes:
        rotation: `(in, in)`.
        kernel: `(in, out)`.
    """

    rotation: Float[Array | np.ndarray, "in in"]
    kernel: Float[Array | np.ndarray, "in out"]


Weights = PyTree[Float[Array | np.ndarray, "..."]]
Stats = PyTree[Float[Array | np.ndarray, "..."]]


@dataclass(frozen=True)
class Network:
    """A Linen module with the shape of its input and the way in which its weights are drawn.

    Attributes:
        module: called as `module(x, train)`; its parameters are the weights, its `batch_stats` the statistics.
        input_shape: shape of one image, `(height, width, channels)`.
        initializer: draws the kernels.
        head: the name of the last layer among the weights, which methods may give each task its own of.
        uses_batch: whether what it says of an image depends on the others of its batch, in use too.
    """

    module: nn.Module
    input_shape: tuple[int, ...] = (28, 28, 1)
    initializer: Initializer = signed_constant
    head: str = ""
    uses_batch: bool = False

    def __post_init__(self) -> None:
        if not self.input_shape or not all(isinstance(size, int) and size > 0 for size in self.input_shape):
            raise ValueError(f"images have shape {self.input_shape}; give (height, width, channels), each above 0")

    @property
    def num_outputs(self) -> int:
        """How many outputs it has, the superfluous ones among them."""
        one = jnp.zeros((1, *self.input_shape))
        module: Any = self.module
        return jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), one, train=False)[0]).shape[-1]

    def init(self, key: Key[Array, ""]) -> tuple[Weights, Stats]:
        """Draws the weights, and gives the statistics their initial values.

        Kernels come from `initializer`, a function of the key and the kernel's path; parameters of one dimension
        and the statistics are the module's own. No forward pass is run.

        Args:
            key: a random key; the same key gives the same weights.

        Returns:
            The weights, and the batch-norm statistics: an empty dictionary for a network that has none.
        """

        def own(key: Key[Array, ""]) -> dict[str, Any]:
            return dict(self.module.init(key, jnp.zeros((1, *self.input_shape)), train=False))

        def kernels_only(leaf: Any) -> Any:
            return leaf if leaf.ndim >= 2 else None

        shapes = jax.eval_shape(own, key)
        kernels = draw(key, jax.tree.map(kernels_only, shapes["params"]), self.initializer)
        # Under jit what is not returned is not computed: the kernels' own values and the forward pass.
        rest = jax.jit(lambda key: jax.tree.map(lambda leaf: leaf if leaf.ndim < 2 else None, own(key)))(key)
        weights = jax.tree.map(
            lambda leaf, kernel: kernel if leaf is None else leaf,
            rest["params"],
            kernels,
            is_leaf=lambda leaf: leaf is None,
        )
        return weights, rest.get("batch_stats", {})

    def init_stats(self) -> Stats:
        """The initial values of the statistics alone, without drawing weights."""

        def own() -> dict[str, Any]:
            return dict(self.module.init(jax.random.key(0), jnp.zeros((1, *self.input_shape)), train=False))

        return jax.jit(lambda: own().get("batch_stats", {}))()

    def apply(
        self, weights: Weights, stats: Stats, x: Float[Array, "batch ..."], train: bool
    ) -> tuple[Float[Array, "batch outputs"], Stats]:
        """Runs the network.

        Args:
            weights: as `init` gives them, or effective weights of the same structure; the kernel of a dense layer
                may be `Rotated`.
            stats: the batch-norm statistics of the task.
            x: normalised images, `(batch, height, width, channels)`.
            train: whether batch norm uses the statistics of this batch, and updates the running ones.

        Returns:
            The logits and the statistics: updated in training, else the ones handed in.

        Raises:
            ValueError: if the images have another shape, or the kernel of another layer is `Rotated`.
        """
        if x.shape[1:] != self.input_shape:
            raise ValueError(f"the images have shape {x.shape[1:]}; this network sees {self.input_shape}")
        kernels, rotations = _taken_apart(weights)
        with nn.intercept_methods(rotations):
            variables = {"params": kernels, "batch_stats": stats} if stats else {"params": kernels}
            if train and stats:
                logits, updated = self.module.apply(variables, x, train=True, mutable=["batch_stats"])
                stats = updated["batch_stats"]
            else:
                logits = self.module.apply(variables, x, train=train)
        rotations.check()
        return cast(Array, logits), stats


def layer_size(units: int, width: float) -> int:
    """The size of a hidden layer that is so many times as large.

    Raises:
        ValueError: if it has no units, or more than there can be.
    """
    if not 1 <= units * width < 2**31:
        raise ValueError(f"a layer of {units} units cannot be {width} times as large")
    return int(units * width)


def at_least_one(features: int) -> int:
    """The outputs of a network.

    Raises:
        ValueError: if there are none.
    """
    if features < 1:
        raise ValueError(f"a network of {features} outputs says nothing; give at least one")
    return features


def has_convolutions(weights: Weights) -> bool:
    """Whether any of the weights is a kernel of a convolution."""
    return any(leaf.ndim > 2 for leaf in jax.tree.leaves(weights))


class _Rotations:
    """Turns the inputs of dense layers.

    Args:
        of: rotations by the path of the layer's kernel.
    """

    def __init__(self, of: dict[tuple[str, ...], Array]):
        self._of, self._missed = of, set(of)

    def __call__(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any], context: Any) -> Any:
        path = (*context.module.path, "kernel")
        if isinstance(context.module, nn.Dense) and path in self._of:
            self._missed.discard(path)
            arguments = (arguments[0] @ self._of[path], *arguments[1:])
        return layer(*arguments, **options)

    def check(self) -> None:
        if self._missed:
            raise ValueError(f"only layers of the class flax.linen.Dense can be rotated, not {sorted(self._missed)}")


def _taken_apart(weights: Weights) -> tuple[Weights, _Rotations]:
    """The weights with `Rotated` ones' kernels in their place, and the rotations."""

    def is_rotated(leaf: Any) -> bool:
        return isinstance(leaf, Rotated)

    leaves = jax.tree_util.tree_leaves_with_path(weights, is_leaf=is_rotated)
    of = {tuple(entry.key for entry in path): leaf.rotation for path, leaf in leaves if is_rotated(leaf)}
    kernels = jax.tree.map(lambda leaf: leaf.kernel if is_rotated(leaf) else leaf, weights, is_leaf=is_rotated)
    return kernels, _Rotations(of)
