"""Supermasks in Superposition: a task owns scores, and keeps a binary mask over frozen random weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from supsup_jax import masks
from supsup_jax.methods.base import Kept, Legacy, Method, Owned, Store
from supsup_jax.networks import Weights, draw, pytorch_default


@dataclass(frozen=True)
class SupSup(Method):
    """SupSup: effective weights W ⊙ M, M being the mask of a task's scores (Section 3.1 of the paper).

    Scores start uniform in ±1/√fan_in. Nothing is rescaled by the density.

    Attributes:
        mask: from scores to a mask, hashable: `masks.threshold`, `masks.ErdosRenyi(scale)`, or any other.
    """

    mask: Callable[[Owned], Kept] = masks.threshold

    stacks: ClassVar[bool] = False
    stores: ClassVar[str] = "masks"

    def init_task(self, key: Key[Array, ""], weights: Weights, legacy: Legacy | None = None) -> Owned:
        """Random scores, of the weights' shapes."""
        return draw(key, weights, pytorch_default)

    def keep(self, task: Owned) -> Kept:
        """The mask of the scores."""
        return self.mask(task)

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


@dataclass(frozen=True)
class Transfer(SupSup):
    """SupSup Transfer: scores start as the mean of those that all earlier tasks ended with.

    The paper speaks of the mean of their masks (Section 3.2); its numbers are of the scores.
    """

    def in_turn(self, task: int) -> bool:
        """Every task."""
        return True

    def first_legacy(self, weights: Weights) -> Legacy:
        """The sum of no scores."""
        return {"total": jax.tree.map(jnp.zeros_like, weights), "tasks": jnp.int32(0)}

    def leave(self, legacy: Any, task: Owned) -> Legacy:
        """The sum of all scores, this task's included."""
        return {"total": jax.tree.map(jnp.add, legacy["total"], task), "tasks": legacy["tasks"] + 1}

    def init_task(self, key: Key[Array, ""], weights: Weights, legacy: Any = None) -> Owned:
        """The mean of the earlier tasks' scores; random ones for the first."""
        random = super().init_task(key, weights)
        if legacy is None:
            return random
        total, tasks = legacy["total"], legacy["tasks"]
        return jax.tree.map(lambda own, sum_: jnp.where(tasks == 0, own, sum_ / jnp.maximum(tasks, 1)), random, total)
