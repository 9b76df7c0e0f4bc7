"""What the methods are measured against: a network for every task, and one network for all without any method."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Key

from supsup_jax.methods.base import Adapter, Carry, Method, Params
from supsup_jax.networks import Weights


@dataclass(frozen=True)
class UpperBound(Method):
    """A network of its own for each task: nothing is forgotten, and storage grows by a network.

    Attributes:
        fine_tunes: whether a task's network starts as the one before it ended, and not as the base weights. So the
            paper's bound of SplitCIFAR100 was made, which reports every task right after it was learned.
    """

    fine_tunes: bool = False

    stores: ClassVar[str] = "networks"

    def shared(self, weights: Weights) -> dict[str, Array]:
        """Nothing."""
        return {}

    def in_turn(self, task: int) -> bool:
        """Every task, if it starts from the one before."""
        return self.fine_tunes

    def first_carry(self, weights: Weights) -> Carry:
        """The weights that tasks start from."""
        return weights if self.fine_tunes else {}

    def next_carry(self, carry: Carry, params: Params) -> Carry:
        """The task's weights, if the next one starts from them."""
        return params if self.fine_tunes else carry

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Weights of its own, which start as the shared ones or as the last task's."""
        return carry if self.fine_tunes and carry is not None else weights

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """Its weights."""
        return params

    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """Its weights."""
        return adapter


@dataclass(frozen=True)
class LowerBound(Method):
    """One network, trained on all tasks in turn; nothing protects what was learned before."""

    stores: ClassVar[str] = "nothing"
    searches: ClassVar[tuple[str, ...]] = ()

    def trains_weights(self, task: int) -> bool:
        """With every task."""
        return True

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Nothing."""
        return {}

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """Nothing."""
        return params

    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """The base weights."""
        return weights
