"""A last layer of its own for each task, on a body that tasks share."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Key

from supsup_jax.methods.base import Kept, Legacy, Method, Owned
from supsup_jax.networks import Weights, draw, pytorch_default


@dataclass(frozen=True)
class _Heads(Method):
    """Tasks share all layers but the last. Batch-norm statistics belong to the task, as always.

    Attributes:
        head: the name of the last layer, `Network.head`.
    """

    head: str

    stores: ClassVar[str] = "heads"

    def shared(self, weights: Weights) -> Weights:
        """The body."""
        return {name: layer for name, layer in weights.items() if name != self.head}

    def keep(self, task: Owned) -> Kept:
        """The head."""
        return task

    def combine(self, weights: Weights, kept: Kept) -> Weights:
        """The body with the task's head."""
        return {**weights, self.head: kept}


@dataclass(frozen=True)
class SeparateHeads(_Heads):
    """Heads on a body that the first task has trained; all heads start from the same values.

    Attributes:
        random_weights: whether the body is never trained ("Rand W" in the paper).
    """

    random_weights: bool = False

    def trains_weights(self, task: int) -> bool:
        """With the first task, or never."""
        return task == 0 and not self.random_weights

    def first_legacy(self, weights: Weights) -> Legacy:
        """The values that heads start from; the shared weights' own head decays while the body is trained."""
        return weights[self.head]

    def init_task(self, key: Key[Array, ""], weights: Weights, legacy: Legacy | None = None) -> Owned:
        """A head."""
        return self.first_legacy(weights) if legacy is None else legacy


@dataclass(frozen=True)
class FineTuning(_Heads):
    """A body that is trained on from task to task, and a fresh head for each: both bounds of the paper's MNIST figures.

    A task's accuracy right after it was learned is the upper bound: a model of its own, whose body has seen all tasks
    before. The accuracy of all tasks at the end is the lower bound: nothing protected the body from later tasks
    (Section 3.3: the trunk for task i is trained on tasks 1 to i, with a separate head for each task). Heads start as
    PyTorch's layers do, uniform in ±1/√fan_in.
    """

    def trains_weights(self, task: int) -> bool:
        """With every task."""
        return True

    def init_task(self, key: Key[Array, ""], weights: Weights, legacy: Legacy | None = None) -> Owned:
        """A fresh head."""
        return draw(key, weights[self.head], pytorch_default)
