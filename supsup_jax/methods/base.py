"""What a method is: what a task owns, and how that becomes the weights that the network runs with."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from supsup_jax.networks import Weights

Owned = PyTree[Array | np.ndarray]
"""What a task owns while it is learned: what the optimiser changes."""

Kept = PyTree[Array | np.ndarray]
"""What remains of a task once it is learned, for instance a mask."""

Store = PyTree[Array | np.ndarray]
"""What is kept of many tasks, in the form in which it lies in memory and in checkpoints."""

Legacy = PyTree[Array | np.ndarray]
"""What a task has left for later ones to start from, beside the shared weights."""


class Method(ABC):
    """A way of learning many tasks in one network. Instances are frozen dataclasses of their settings.

    A new method says what a task owns (`init_task`), what is kept of it (`keep`), and how that becomes effective
    weights (`combine`). How many tasks are stored may be overridden where there is a better form than stacking.
    Tasks are independent, and learned side by side, except for those with which the shared weights are learned, and
    where every task leaves something for the next one to start from (`first_legacy`, `leave`).

    Attributes:
        learns_owned: whether what a task owns is learned; else it stays as `init_task` gives it.
        store_grows: whether a store of more tasks holds those of fewer; else it has one size, and changes.
        stacks: whether a store is what is kept of each task, along a leading task axis.
        stores: what is kept, in words.
    """

    learns_owned: ClassVar[bool] = True
    store_grows: ClassVar[bool] = True
    stacks: ClassVar[bool] = True
    stores: ClassVar[str]

    def trains_weights(self, task: int) -> bool:
        """Whether the shared weights are learned with this task; it then comes after all before it, alone."""
        return False

    def in_turn(self, task: int) -> bool:
        """Whether this task comes after all before it, alone, since it needs or changes what they have left."""
        return self.trains_weights(task)

    def shared(self, weights: Weights) -> PyTree[Any]:
        """The part of the shared weights that learned tasks run with; by default all."""
        return weights

    def first_legacy(self, weights: Weights) -> Legacy:
        """What the first task starts from, given the weights as they were drawn; by default nothing."""
        return {}

    def leave(self, legacy: Legacy, task: Owned) -> Legacy:
        """What a task that was learned in turn leaves, given what it started from; by default the same."""
        return legacy

    @abstractmethod
    def init_task(self, key: Key[Array, ""], weights: Weights, legacy: Legacy | None = None) -> Owned:
        """What a new task owns.

        Args:
            key: a random key, a function of (seed, task).
            weights: the shared weights.
            legacy: what the tasks before have left; by default `first_legacy`.
        """

    @abstractmethod
    def keep(self, task: Owned) -> Kept:
        """What remains of a task once it is learned; differentiable, since training runs through it."""

    @abstractmethod
    def combine(self, weights: Weights, kept: Kept) -> Weights:
        """The weights that the network runs with, from the shared ones and what is kept of a task."""

    def effective(self, weights: Weights, task: Owned) -> Weights:
        """The weights that the network runs with while the task is learned."""
        return self.combine(weights, self.keep(task))

    def pack(self, kept: Kept) -> Store:
        """Stores what is kept of several tasks, stacked along a leading task axis."""
        return kept

    def unpack(self, store: Store, task: int | Int[Array, ""]) -> Kept:
        """What is kept of one task."""
        return jax.tree.map(lambda leaf: leaf[task], store)

    def concatenate(self, stores: Sequence[Store], num_tasks: Sequence[int]) -> Store:
        """One store of all tasks of several, of which each holds so many."""
        return jax.tree.map(
            lambda *leaves: np.concatenate([x[:n] for x, n in zip(leaves, num_tasks, strict=True)]), *stores
        )

    def remember(self, store: Store | None, kept: Kept) -> Store:
        """A store that does not grow, after it has taken in what is kept of more tasks.

        Args:
            store: the store so far; nothing before the first task.
            kept: what is kept of the new tasks, stacked along a leading task axis, in order.
        """
        raise NotImplementedError(f"the store of {type(self).__name__} grows: see `pack` and `concatenate`")
