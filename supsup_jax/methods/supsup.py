"""Supermasks in Superposition: a task trains scores, and keeps a binary mask over frozen random weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from supsup_jax import masks
from supsup_jax.bank import concatenate, first, pack, unpack
from supsup_jax.methods.base import Adapter, Bank, Carry, Method, Params
from supsup_jax.networks import Weights, draw, pytorch_default
from supsup_jax.system import backend

BITS = "masks as bits"
"""The bytes of masks in an account: one bit a weight and task."""

SPARSE = "masks as sparse indices of 16 bits"
"""The bytes of the same masks as the paper counts them: two bytes for each weight that a mask keeps."""


@dataclass(frozen=True)
class SupSup(Method):
    """SupSup: effective weights W ⊙ M, M being the mask of a task's scores (Section 3.1 of the paper).

    Scores start uniform in ±1/√fan_in. Nothing is rescaled by the density.

    Attributes:
        mask: from scores to a mask, hashable: `masks.threshold`, `masks.ErdosRenyi(scale)`, or any other.
    """

    mask: Callable[[Params], Adapter] = masks.threshold

    stacks: ClassVar[bool] = False
    stores: ClassVar[str] = "masks"
    has_masks: ClassVar[bool] = True
    searches: ClassVar[tuple[str, ...]] = ("OneShot", "Binary", "Exhaustive")

    def densities(self, weights: PyTree[Any]) -> PyTree[float]:
        """Those of the mask, where it says them."""
        return self.mask.densities(weights) if isinstance(self.mask, masks.TopK | masks.ErdosRenyi) else {}

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Random scores, of the weights' shapes."""
        return draw(key, weights, pytorch_default)

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """The mask of the scores."""
        return self.mask(params)

    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """The masked weights."""
        return jax.tree.map(lambda weight, mask: weight * mask, weights, adapter)

    def pack(self, adapters: Adapter) -> Bank:
        """Masks as a bank, one bit an entry."""
        return pack(adapters)

    def unpack(self, bank: Bank, task: int | Int[Array, ""]) -> Adapter:
        """The mask of one task."""
        return unpack(bank, task)

    def concatenate(self, banks: Sequence[Bank], counts: Sequence[int]) -> Bank:
        """One bank of all tasks."""
        return concatenate(banks, counts)

    def _account_of_bank(self, bank: Bank, num_tasks: int) -> dict[str, int]:
        """The bytes of the masks as bits, and in another form, as the paper counts them: indices of 16 bits."""
        bits: Any = jax.device_get(first(bank, num_tasks))
        entries = sum(int(np.bitwise_count(leaf).sum(dtype=np.int64)) for leaf in jax.tree.leaves(bits))
        return {BITS: backend.num_bytes(bits), SPARSE: 2 * entries}


@dataclass(frozen=True)
class Transfer(SupSup):
    """SupSup Transfer: scores start as the mean of those that all earlier tasks ended with.

    The paper speaks of the mean of their masks (Section 3.2); its numbers are of the scores.
    """

    def in_turn(self, task: int) -> bool:
        """Every task."""
        return True

    def first_carry(self, weights: Weights) -> Carry:
        """The sum of no scores."""
        return {"total": jax.tree.map(jnp.zeros_like, weights), "tasks": jnp.int32(0)}

    def next_carry(self, carry: Any, params: Params) -> Carry:
        """The sum of all scores, this task's included."""
        return {"total": jax.tree.map(jnp.add, carry["total"], params), "tasks": carry["tasks"] + 1}

    def init(self, key: Key[Array, ""], weights: Weights, carry: Any = None) -> Params:
        """The mean of the earlier tasks' scores; random ones for the first."""
        random = super().init(key, weights)
        if carry is None:
            return random
        total, tasks = carry["total"], carry["tasks"]
        count = jnp.asarray(jnp.maximum(tasks, 1), jnp.float32)
        return jax.tree.map(lambda own, sum_: jnp.where(tasks == 0, own, sum_ / count), random, total)
