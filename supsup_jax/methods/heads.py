"""Separate heads: tasks share all layers but the last, of which each has its own."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Key

from supsup_jax.methods.base import Kept, Legacy, Method, Owned
from supsup_jax.networks import Weights


@dataclass(frozen=True)
class SeparateHeads(Method):
    """A last layer of its own for each task, on a body that the first task has trained.

    All heads start from the same values. Batch-norm statistics belong to the task, as always.

    Attributes:
        head: the name of the last layer, `Network.head`.
        random_weights: whether the body is never trained ("Rand W" in the paper).
    """

    head: str
    random_weights: bool = False

    stores: ClassVar[str] = "heads"

    def shared(self, weights: Weights) -> Weights:
        """The body."""
        return {name: layer for name, layer in weights.items() if name != self.head}

    def trains_weights(self, task: int) -> bool:
        """With the first task, or never."""
        return task == 0 and not self.random_weights

    def first_legacy(self, weights: Weights) -> Legacy:
        """The values that heads start from; the shared weights' own head decays while the body is trained."""
        return weights[self.head]

    def init_task(self, key: Key[Array, ""], weights: Weights, legacy: Legacy | None = None) -> Owned:
        """A head."""
        return self.first_legacy(weights) if legacy is None else legacy

    def keep(self, task: Owned) -> Kept:
        """The head."""
        return task

    def combine(self, weights: Weights, kept: Kept) -> Weights:
        """The body with the task's head."""
        return {**weights, self.head: kept}
