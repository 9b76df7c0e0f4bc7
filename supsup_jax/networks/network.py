"""Networks as pure functions of their weights.

Networks are independent of masks, tasks and methods: a method passes the weights that the network uses.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from supsup_jax.arguments import Part, wrong_type
from supsup_jax.errors import ArgumentError, UserError
from supsup_jax.networks.initializers import Initializer, InitializerName, draw, initializer_of, signed_constant
from supsup_jax.system import numerics

_MOST_UNITS = 2048  # widest layer of the built-in networks at width 1: in BNNet, and in ResNet-50's last stage


class Rotated(NamedTuple):
    """Kernel of a dense layer as the product `rotation @ kernel`; a batch is multiplied by `rotation` first.

    Attributes:
        rotation: orthogonal matrix, `(in, in)`.
        kernel: kernel before the rotation, `(in, out)`.
    """

    rotation: Float[Array | np.ndarray, "in in"]
    kernel: Float[Array | np.ndarray, "in out"]


Weights = PyTree[Float[Array | np.ndarray, "..."]]
Stats = PyTree[Float[Array | np.ndarray, "..."]]


class Network(Part):
    """Flax Linen module, with the shape of its images and the initialiser of its kernels.

    `Network(module, input_shape=...)` creates a `CustomNetwork` from any Linen module. Built-in networks, and networks
    with custom arguments, are subclasses: frozen dataclasses with a property `module`, compared and hashed by their
    fields. `input_shape` and `initializer` must be among the fields.

    Attributes:
        module: module that is called as `module(x, train)`; its parameters are the weights, its `batch_stats` the
            statistics.
        input_shape: shape `(height, width, channels)` of an image.
        initializer: initialiser of the kernels: a function, or one of the names in `INITIALIZERS`.
        head: name of the last layer among the weights, for methods that keep a separate last layer for each task.
        uses_batch: whether the outputs for an image depend on the other images of the batch, also in evaluation.
        affine: whether batch norm has gains and biases; False for networks without such an argument.
        sync_bn: whether batch norm averages its statistics over all devices that share a batch; False for networks
            without such an argument.
        derived: fields that an experiment fills in; all other fields that are numbers, strings or booleans are
            settings.
    """

    kind: ClassVar[str] = "network"
    derived: ClassVar[tuple[str, ...]] = ("input_shape",)
    default_class: ClassVar[Any]

    module: nn.Module
    input_shape: tuple[int, ...]
    initializer: Initializer | InitializerName
    head: str = ""
    uses_batch: bool = False
    affine: bool = False
    sync_bn: bool = False

    if TYPE_CHECKING:

        def __init__(
            self,
            module: nn.Module,
            input_shape: tuple[int, ...] = (28, 28, 1),
            initializer: Initializer | InitializerName = signed_constant,
            head: str = "",
            uses_batch: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        shape = self.input_shape
        if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ArgumentError("input_shape", shape, "must be (height, width, channels), each at least 1")
        object.__setattr__(self, "initializer", initializer_of(self.initializer))

    def for_images(self, shape: tuple[int, ...]) -> "Network":
        """Return the same network for images of a different shape.

        Args:
            shape: shape `(height, width, channels)` of an image.

        Raises:
            UserError: if this is a custom network, whose module supports a single shape.
        """
        this: Any = self
        return self if shape == self.input_shape else dataclasses.replace(this, input_shape=shape)

    @property
    def is_dense(self) -> bool:
        """Whether all weights are kernels of Flax's dense layers, each of them called once, with a batch of vectors."""
        return False

    @property
    def num_outputs(self) -> int:
        """Number of outputs, including superfluous neurons."""
        module: Any = self.module
        image = jax.ShapeDtypeStruct((1, *self.input_shape), jnp.float32)
        logits = jax.eval_shape(lambda x: module.init_with_output(numerics.key(0), x, train=False)[0], image)
        return logits.shape[-1]

    @numerics.with_fixed_flags
    def init(self, key: Key[Array, ""]) -> tuple[Weights, Stats]:
        """Draw the weights, and initialise the statistics.

        Kernels are drawn by `initializer`, as a function of the key and the kernel's path. Parameters of one dimension
        and the statistics are initialised by the module. No forward pass is run.

        Args:
            key: random key; the same key gives the same weights.

        Returns:
            The weights, and the batch-norm statistics: an empty dictionary if the network has none.
        """

        def initial_variables(key: Key[Array, ""]) -> dict[str, Any]:
            return dict(self.module.init(key, jnp.zeros((1, *self.input_shape)), train=False))

        def kernels_only(leaf: Any) -> Any:
            return leaf if leaf.ndim >= 2 else None

        shapes = jax.eval_shape(initial_variables, key)
        kernels = draw(key, jax.tree.map(kernels_only, shapes["params"]), initializer_of(self.initializer))
        # Under jit, values that are not returned are not computed: the module's kernels and the forward pass.
        others = jax.jit(
            lambda key: jax.tree.map(lambda leaf: leaf if leaf.ndim < 2 else None, initial_variables(key))
        )(key)
        weights = jax.tree.map(
            lambda leaf, kernel: kernel if leaf is None else leaf,
            others["params"],
            kernels,
            is_leaf=lambda leaf: leaf is None,
        )
        return weights, others.get("batch_stats", {})

    @numerics.with_fixed_flags
    def init_stats(self) -> Stats:
        """Return the initial statistics, without drawing weights."""

        def initial_variables() -> dict[str, Any]:
            return dict(self.module.init(numerics.key(0), jnp.zeros((1, *self.input_shape)), train=False))

        return jax.jit(lambda: initial_variables().get("batch_stats", {}))()

    def apply(
        self, weights: Weights, stats: Stats, x: Float[Array, "batch ..."], train: bool
    ) -> tuple[Float[Array, "batch outputs"], Stats]:
        """Run the network.

        Args:
            weights: weights from `init`, or effective weights of the same structure; the kernel of a dense layer may be
                `Rotated`.
            stats: batch-norm statistics of the task.
            x: normalised images, `(batch, height, width, channels)`.
            train: whether batch norm uses the statistics of this batch and updates the running ones.

        Returns:
            The logits, and the statistics: updated in training, otherwise unchanged.

        Raises:
            ValueError: if the images have the wrong shape, or a kernel other than that of a dense layer is `Rotated`.
        """
        if x.shape[1:] != self.input_shape:
            raise ValueError(f"the images have shape {x.shape[1:]}; this network expects {self.input_shape}")
        kernels, rotations = _split_rotations(weights)
        with nn.intercept_methods(rotations):
            variables = {"params": kernels, "batch_stats": stats} if stats else {"params": kernels}
            if train and stats:
                logits, updated = self.module.apply(variables, x, train=True, mutable=["batch_stats"])
                stats = updated["batch_stats"]
            else:
                logits = self.module.apply(variables, x, train=train)
        rotations.check()
        return cast(Array, logits), stats


@dataclass(frozen=True)
class CustomNetwork(Network):
    """Network from a user's Linen module. `Network(module, input_shape=...)` creates one.

    The module must be hashable. Attributes are documented at `Network`.

    Raises:
        UserError: if an argument is out of range.
    """

    module: nn.Module
    input_shape: tuple[int, ...] = (28, 28, 1)
    initializer: Initializer | InitializerName = signed_constant
    head: str = ""
    uses_batch: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(getattr(self.module, "apply", None)):
            raise wrong_type("module", self.module, "an instance of a Linen module")

    def for_images(self, shape: tuple[int, ...]) -> Network:
        """Return this network if it is made for images of this shape. Arguments and errors are those of `Network`."""
        if shape != self.input_shape:
            raise UserError(
                f"the network is made for images of shape {self.input_shape}, the data has {shape}; create it with "
                f"input_shape={shape}"
            )
        return self


Network.default_class = CustomNetwork


@dataclass(frozen=True)
class SizedNetwork(Network):
    """Base class of built-in networks, whose size follows from the number of outputs and a width.

    Subclasses define the sizes of hidden layers (`units`) and the module.

    Attributes:
        features: number of outputs, including superfluous neurons.
        width: factor that multiplies the sizes of hidden layers.
        input_shape: shape `(height, width, channels)` of an image.
        initializer: initialiser of the kernels: a function, or one of the names in `INITIALIZERS`.

    Raises:
        UserError: if an argument is out of range, or a hidden layer would have no units.
    """

    features: int
    width: float = 1.0
    input_shape: tuple[int, ...] = (28, 28, 1)
    initializer: Initializer | InitializerName = signed_constant

    units: ClassVar[tuple[int, ...]]
    """Sizes of the hidden layers at width 1; for a ResNet, the number of channels of the first stage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features < 1:
            raise ArgumentError("features", self.features, "must be at least 1")
        if not self.width > 0:
            raise ArgumentError("width", self.width, "must be a positive number")
        if not self.width * _MOST_UNITS < 2**31:
            raise ArgumentError("width", self.width, f"makes layers too large; give less than {2**31 // _MOST_UNITS}")
        if self.width * min(self.units) < 1:
            raise ArgumentError(
                "width", self.width, f"leaves a layer without units; give at least {1 / min(self.units)}"
            )

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Sizes of the hidden layers."""
        return tuple(int(units * self.width) for units in self.units)


def has_convolutions(weights: Weights) -> bool:
    """Return whether the weights include a kernel of a convolution."""
    return any(leaf.ndim > 2 for leaf in jax.tree.leaves(weights))


class _Rotations:
    """Flax interceptor that rotates the inputs of dense layers.

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


def _split_rotations(weights: Weights) -> tuple[Weights, _Rotations]:
    """Separate `Rotated` kernels into plain kernels and rotations."""

    def is_rotated(leaf: Any) -> bool:
        return isinstance(leaf, Rotated)

    leaves = jax.tree_util.tree_leaves_with_path(weights, is_leaf=is_rotated)
    of = {tuple(entry.key for entry in path): leaf.rotation for path, leaf in leaves if is_rotated(leaf)}
    kernels = jax.tree.map(lambda leaf: leaf.kernel if is_rotated(leaf) else leaf, weights, is_leaf=is_rotated)
    return kernels, _Rotations(of)
