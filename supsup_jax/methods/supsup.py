"""Supermasks in Superposition: a task owns scores, and keeps a binary mask over frozen random weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Int, Key

from supsup_jax import masks
from supsup_jax.methods.base import Kept, Method, Owned, Store
from supsup_jax.networks import Weights, draw, kaiming_uniform


@dataclass(frozen=True)
class SupSup(Method):
    """SupSup with the threshold mask: effective weights W ⊙ [S ≥ 0] (Section 3.1 of the paper).

    Scores start Kaiming-uniform, in ±1/√fan_in. Nothing is rescaled by the density.
    """

    stacks: ClassVar[bool] = False

    def init_task(self, key: Key[Array, ""], weights: Weights) -> Owned:
        """Random scores, of the weights' shapes."""
        return draw(key, weights, kaiming_uniform)

    def keep(self, task: Owned) -> Kept:
        """The mask of the scores."""
        return masks.threshold(task)

    def combine(self, weights: Weights, kept: Kept) -> Weights:
        """The masked weights."""
        return jax.tree.map(lambda weight, mask: weight * mask, weights, kept)

    def pack(self, kept: Kept) -> Store:
        """Masks as a bank, one bit an entry."""
        return masks.pack(kept)

    def unpack(self, store: Store, task: int | Int[Array, ""]) -> Kept:
        """The mask of one task."""
        return masks.unpack(store, task)

    def concatenate(self, stores: Sequence[Store], num_tasks: Sequence[int]) -> Store:
        """One bank of all tasks."""
        return masks.concatenate(stores, num_tasks)
