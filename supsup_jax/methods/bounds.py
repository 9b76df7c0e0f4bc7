"""What the methods are measured against: a network for every task, and one network for all without any method."""

from dataclasses import dataclass

from jaxtyping import Array, Key

from supsup_jax.methods.base import Kept, Method, Owned
from supsup_jax.networks import Weights


@dataclass(frozen=True)
class UpperBound(Method):
    """A network of its own for each task: nothing is shared and nothing forgotten, and storage grows by a network."""

    def init_task(self, key: Key[Array, ""], weights: Weights) -> Owned:
        """Weights of its own, which start as the shared ones."""
        return weights

    def keep(self, task: Owned) -> Kept:
        """Its weights."""
        return task

    def combine(self, weights: Weights, kept: Kept) -> Weights:
        """Its weights."""
        return kept


@dataclass(frozen=True)
class LowerBound(Method):
    """One network, trained on all tasks in turn; nothing protects what was learned before."""

    def trains_weights(self, task: int) -> bool:
        """With every task."""
        return True

    def init_task(self, key: Key[Array, ""], weights: Weights) -> Owned:
        """Nothing."""
        return {}

    def keep(self, task: Owned) -> Kept:
        """Nothing."""
        return task

    def combine(self, weights: Weights, kept: Kept) -> Weights:
        """The shared weights."""
        return weights
