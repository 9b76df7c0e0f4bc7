"""Methods with a separate last layer (head) for each task on a shared body."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from supsup_jax.errors import UserError
from supsup_jax.methods.base import Adapter, Carry, Method, Params
from supsup_jax.networks import Network, Weights, draw, pytorch_default
from supsup_jax.system import numerics


@dataclass(frozen=True)
class HeadMethod(Method):
    """Base class of methods whose tasks share all layers except the last.

    Attributes:
        head: name of the last layer, `Network.head`. An experiment fills it in.
    """

    head: str = field(default="", kw_only=True)

    derived: ClassVar[tuple[str, ...]] = ("head",)

    def check(self, net: Network) -> None:
        """Check that the network names its last layer.

        Raises:
            UserError: if `head` is empty.
        """
        if not net.head:
            raise UserError(f"{type(self).__name__} needs to know the last layer; give Network(..., head=NAME)")

    def for_network(self, net: Network) -> "HeadMethod":
        """Return the method with the name of the network's last layer."""
        return dataclasses.replace(self, head=self.head or net.head)

    def shared(self, weights: Weights) -> Weights:
        """Return the body: all layers except the last."""
        return {name: layer for name, layer in weights.items() if name != self.head}


@dataclass(frozen=True)
class _Heads(HeadMethod):
    """Base class: an adapter is a head. Batch-norm statistics are separate for each task, as always."""

    head: str = ""

    stores: ClassVar[str] = "heads"

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Return the initial head, which is the same for all tasks: `first_carry`."""
        return self.first_carry(weights) if carry is None else carry

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """Return the head unchanged."""
        return params

    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """Return the body with the task's head."""
        return {**weights, self.head: adapter}


@dataclass(frozen=True)
class SeparateHeads(_Heads):
    """Separate heads on a body that the first task trains.

    Attributes:
        random_weights: whether the body stays random, without training ("Rand W" in the paper).
    """

    random_weights: bool = False

    def trains_weights(self, task: int) -> bool:
        """Return True for the first task, unless `random_weights` is set."""
        return task == 0 and not self.random_weights

    def first_carry(self, weights: Weights) -> Carry:
        """Return the initial values of heads: the base weights' head, which decays while the body is trained."""
        return weights[self.head]


@dataclass(frozen=True)
class FineTuning(_Heads):
    """Body that every task trains, with a separate head for each task: both bounds of the paper's MNIST figures.

    A task's accuracy right after training is the upper bound: the body has seen no later task. The accuracy of all
    tasks at the end is the lower bound: nothing protects the body from later tasks (Section 3.3: the trunk for task i
    is trained on tasks 1 to i, with a separate head for each task).

    All heads start from the same values, as in the original code, in PyTorch's default initialisation, uniform in
    ±1/√fan_in. Both properties are needed to reproduce the paper's curves: on permuted MNIST (LeNet, five seeds) the
    bounds after 10 tasks are 94.89 and 70.3 %; if each head is drawn separately they are 94.6 and 85.6 % (paper: 94.94
    and 72.2 %).
    """

    def trains_weights(self, task: int) -> bool:
        """Return True: every task trains the base weights."""
        return True

    def first_carry(self, weights: Weights) -> Carry:
        """Return the initial values of heads, not the base weights' head, whose initialiser is that of the body."""
        kernel, *_ = jax.tree.leaves(weights[self.head])
        bits = jax.lax.bitcast_convert_type(jnp.asarray(kernel, jnp.float32), jnp.uint32).reshape(-1)
        # The seed depends on every weight. Weights of equal magnitude differ only in their sign bit.
        seed = ((bits >> 15) * jnp.arange(1, bits.size + 1, dtype=jnp.uint32)).sum(dtype=jnp.uint32)
        return draw(numerics.key(seed), weights[self.head], pytorch_default)
