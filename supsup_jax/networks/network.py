"""A network as a pure function of its weights.

Networks know nothing of masks, tasks or methods: a method hands in the weights that the network runs with.
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

_MOST_UNITS = 2048  # the widest layer of the built-in networks at width 1: of BNNet, and of ResNet-50's last stage


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


class Network(Part):
    """A Linen module, the shape of its images, and how its weights are drawn.

    `Network(module, input_shape=...)` makes a `CustomNetwork` from any Linen module. The built-in networks, and
    networks with arguments of their own, are subclasses: frozen dataclasses with a property `module`, compared and
    hashed by their fields, of which `input_shape` and `initializer` are two.

    Attributes:
        module: called as `module(x, train)`; its parameters are the weights, its `batch_stats` the statistics.
        input_shape: shape of one image, `(height, width, channels)`.
        initializer: draws the kernels; a function, or one of the names in `INITIALIZERS`.
        head: the name of the last layer among the weights, of which methods may give each task its own.
        uses_batch: whether its outputs for an image depend on the other images of the batch, in evaluation too.
        affine: whether its batch norm has gains and biases, for networks with such an argument; else False.
        sync_bn: whether its batch norm takes its statistics over all devices that share a batch, for networks with
            such an argument; else False.
        derived: fields that an experiment fills in; all others of numbers, texts and truth values are settings.
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
        """The same network for images of another shape.

        Args:
            shape: `(height, width, channels)`.

        Raises:
            UserError: if it is a custom network, whose module is made for one shape.
        """
        this: Any = self
        return self if shape == self.input_shape else dataclasses.replace(this, input_shape=shape)

    @property
    def num_outputs(self) -> int:
        """How many outputs it has, the superfluous ones among them."""
        module: Any = self.module
        one = jax.ShapeDtypeStruct((1, *self.input_shape), jnp.float32)
        out = jax.eval_shape(lambda one: module.init_with_output(numerics.key(0), one, train=False)[0], one)
        return out.shape[-1]

    @numerics.with_fixed_flags
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
        kernels = draw(key, jax.tree.map(kernels_only, shapes["params"]), initializer_of(self.initializer))
        # Under jit what is not returned is not computed: the kernels' own values and the forward pass.
        rest = jax.jit(lambda key: jax.tree.map(lambda leaf: leaf if leaf.ndim < 2 else None, own(key)))(key)
        weights = jax.tree.map(
            lambda leaf, kernel: kernel if leaf is None else leaf,
            rest["params"],
            kernels,
            is_leaf=lambda leaf: leaf is None,
        )
        return weights, rest.get("batch_stats", {})

    @numerics.with_fixed_flags
    def init_stats(self) -> Stats:
        """The initial values of the statistics alone, without drawing weights."""

        def own() -> dict[str, Any]:
            return dict(self.module.init(numerics.key(0), jnp.zeros((1, *self.input_shape)), train=False))

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


@dataclass(frozen=True)
class CustomNetwork(Network):
    """A network made from a user's Linen module; `Network(module, input_shape=...)` makes one.

    The module has to be hashable. Attributes are explained at `Network`.

    Raises:
        UserError: if an argument is out of its range.
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
        """This network, if it is made for images of this shape. Arguments and errors are those of `Network`."""
        if shape != self.input_shape:
            raise UserError(
                f"the network is made for images of shape {self.input_shape}, the data has {shape}; make it with "
                f"input_shape={shape}"
            )
        return self


Network.default_class = CustomNetwork


@dataclass(frozen=True)
class SizedNetwork(Network):
    """A built-in network: its size follows from the number of its outputs and a width.

    Subclasses say how large the hidden layers are (`units`) and make the module.

    Attributes:
        features: outputs, the superfluous neurons included.
        width: multiplies the sizes of the hidden layers.
        input_shape: shape of one image, `(height, width, channels)`.
        initializer: draws the kernels; a function, or one of the names in `INITIALIZERS`.

    Raises:
        UserError: if an argument is out of its range, or a hidden layer would have no units.
    """

    features: int
    width: float = 1.0
    input_shape: tuple[int, ...] = (28, 28, 1)
    initializer: Initializer | InitializerName = signed_constant

    units: ClassVar[tuple[int, ...]]
    """Sizes of the hidden layers at width 1; a ResNet's are the channels of its first stage."""

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
