"""A last layer of its own for each task, on a body that tasks share."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from supsup_jax.errors import UserError
from supsup_jax.methods.base import Adapter, Carry, Method, Params
from supsup_jax.networks import Network, Weights, draw, pytorch_default
from supsup_jax.system import numerics


@dataclass(frozen=True)
class _Heads(Method):
    """Tasks share all layers but the last. Batch-norm statistics belong to the task, as always.

    Attributes:
        head: the name of the last layer, `Network.head`.
    """

    head: str = ""

    derived: ClassVar[tuple[str, ...]] = ("head",)
    stores: ClassVar[str] = "heads"

    def check(self, net: Network) -> None:
        """Checks that the network says which layer is its last.

        Raises:
            UserError: if it does not.
        """
        if not net.head:
            raise UserError(f"{type(self).__name__} needs to know the last layer; give Network(..., head=NAME)")

    def for_network(self, net: Network) -> "_Heads":
        """The method with the name of the network's last layer."""
        return dataclasses.replace(self, head=self.head or net.head)

    def shared(self, weights: Weights) -> Weights:
        """The body."""
        return {name: layer for name, layer in weights.items() if name != self.head}

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """A head; all start from the same values, those of `first_carry`."""
        return self.first_carry(weights) if carry is None else carry

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """The head."""
        return params

    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """The body with the task's head."""
        return {**weights, self.head: adapter}


@dataclass(frozen=True)
class SeparateHeads(_Heads):
    """Heads on a body that the first task has trained.

    Attributes:
        random_weights: whether the body is never trained ("Rand W" in the paper).
    """

    random_weights: bool = False

    def trains_weights(self, task: int) -> bool:
        """With the first task, or never."""
        return task == 0 and not self.random_weights

    def first_carry(self, weights: Weights) -> Carry:
        """The values that heads start from; the base weights' own head decays while the body is trained."""
        return weights[self.head]


@dataclass(frozen=True)
class FineTuning(_Heads):
    """A body that is trained on from task to task, and a new head for each: both bounds of the paper's MNIST figures.

    A task's accuracy right after it was learned is the upper bound: a model of its own, whose body has seen all tasks
    before. The accuracy of all tasks at the end is the lower bound: nothing protected the body from later tasks
    (Section 3.3: the trunk for task i is trained on tasks 1 to i, with a separate head for each task).

    All heads start from the same values, as the original's do, in PyTorch's default initialisation, uniform in
    ±1/√fan_in. The paper's curves need both: on permuted MNIST (LeNet, five seeds) the bounds are 94.89 and 70.3 %
    after 10 tasks so, and 94.6 and 85.6 % where each head is drawn anew (paper: 94.94 and 72.2 %).
    """

    def trains_weights(self, task: int) -> bool:
        """With every task."""
        return True

    def first_carry(self, weights: Weights) -> Carry:
        """The values that heads start from: not the base weights' own head, whose initialiser is the body's."""
        kernel, *_ = jax.tree.leaves(weights[self.head])
        bits = jax.lax.bitcast_convert_type(jnp.asarray(kernel, jnp.float32), jnp.uint32).reshape(-1)
        # Of every weight: those of one magnitude differ in the first bit alone.
        seed = ((bits >> 15) * jnp.arange(1, bits.size + 1, dtype=jnp.uint32)).sum(dtype=jnp.uint32)
        return draw(numerics.key(seed), weights[self.head], pytorch_default)
