"""What the methods are measured against: a network for every task, and one network for all without any method."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Key

from supsup_jax.methods.base import Kept, Legacy, Method, Owned
from supsup_jax.networks import Weights


@dataclass(frozen=True)
class UpperBound(Method):
    """A network of its own for each task: nothing is forgotten, and storage grows by a network.

    Attributes:
        fine_tunes: whether a task's network starts as the one before it ended, and not as the shared weights. So the
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

    def first_legacy(self, weights: Weights) -> Legacy:
        """The weights that tasks start from."""
        return weights if self.fine_tunes else {}

    def leave(self, legacy: Legacy, task: Owned) -> Legacy:
        """The task's weights, if the next one starts from them."""
        return task if self.fine_tunes else legacy

    def init_task(self, key: Key[Array, ""], weights: Weights, legacy: Legacy | None = None) -> Owned:
        """Weights of its own, which start as the shared ones or as the last task's."""
        return legacy if self.fine_tunes and legacy is not None else weights

    def keep(self, task: Owned) -> Kept:
        """Its weights."""
        return task

    def combine(self, weights: Weights, kept: Kept) -> Weights:
        """Its weights."""
        return kept


@dataclass(frozen=True)
class LowerBound(Method):
    """One network, trained on all tasks in turn; nothing protects what was learned before."""

    stores: ClassVar[str] = "nothing"

    def trains_weights(self, task: int) -> bool:
        """With every task."""
        return True

    def init_task(self, key: Key[Array, ""], weights: Weights, legacy: Legacy | None = None) -> Owned:
        """Nothing."""
        return {}

    def keep(self, task: Owned) -> Kept:
        """Nothing."""
        return task

    def combine(self, weights: Weights, kept: Kept) -> Weights:
        """The shared weights."""
        return weights
