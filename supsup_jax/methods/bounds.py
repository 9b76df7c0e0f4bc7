"""Baselines: a separate network for each task, and one network trained on all tasks without a method."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Key

from supsup_jax.methods.base import Adapter, Carry, Method, Params
from supsup_jax.networks import Weights


@dataclass(frozen=True)
class UpperBound(Method):
    """Separate network for each task: nothing is forgotten, and every task adds the storage of a network.

    Attributes:
        fine_tunes: whether a task's network starts from the previous task's weights instead of the base weights. The
            paper's upper bound of SplitCIFAR100 is computed this way and reports each task right after it was learned.
    """

    fine_tunes: bool = False

    stores: ClassVar[str] = "networks"

    def shared(self, weights: Weights) -> dict[str, Array]:
        """Return `{}`: learned tasks share no weights."""
        return {}

    def in_turn(self, task: int) -> bool:
        """Return whether tasks start from the previous task's weights."""
        return self.fine_tunes

    def first_carry(self, weights: Weights) -> Carry:
        """Return the base weights if tasks start from the previous task's weights; otherwise `{}`."""
        return weights if self.fine_tunes else {}

    def next_carry(self, carry: Carry, params: Params) -> Carry:
        """Return the task's weights if the next task starts from them."""
        return params if self.fine_tunes else carry

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Return the previous task's weights or the base weights, according to `fine_tunes`."""
        return carry if self.fine_tunes and carry is not None else weights

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """Return the task's weights."""
        return params

    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """Return the task's weights."""
        return adapter


@dataclass(frozen=True)
class LowerBound(Method):
    """Single network, trained on all tasks in turn without protection against forgetting."""

    stores: ClassVar[str] = "nothing"
    searches: ClassVar[tuple[str, ...]] = ()

    def trains_weights(self, task: int) -> bool:
        """Return True: every task trains the base weights."""
        return True

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Return `{}`: a task has no parameters besides the base weights."""
        return {}

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """Return the empty adapter."""
        return params

    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """Return the base weights."""
        return weights
