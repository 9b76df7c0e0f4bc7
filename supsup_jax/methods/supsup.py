"""Supermasks in Superposition: each task trains scores, and keeps a binary mask over frozen random weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from supsup_jax import bank as bits
from supsup_jax import masks
from supsup_jax.bank import outer
from supsup_jax.bank.counts import count_all
from supsup_jax.errors import UserError
from supsup_jax.methods.base import Adapter, Bank, Carry, Method, Params
from supsup_jax.networks import Weights, draw, pytorch_default
from supsup_jax.system import backend

BITS = "masks as bits"
"""Name of the storage of masks at one bit per weight and task."""

SPARSE = "masks as sparse indices of 16 bits"
"""Name of the storage of the same masks as the paper counts it: two bytes for each weight that a mask keeps."""


_pack = jax.jit(bits.pack)  # one program for all layers


class MaskMethod(Method):
    """Base class of methods whose adapters are masks M, with effective weights W ⊙ M; banks have one bit per weight."""

    stacks: ClassVar[bool] = False
    has_masks: ClassVar[bool] = True
    searches: ClassVar[tuple[str, ...]] = ("OneShot", "Binary", "Exhaustive")

    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """Return the masked weights."""
        return jax.tree.map(lambda weight, mask: weight * mask, weights, adapter)

    def pack(self, adapters: Adapter) -> Bank:
        """Pack masks into a bank, one bit per weight."""
        return _pack(adapters)

    def unpack(self, bank: Bank, task: int | Int[Array, ""]) -> Adapter:
        """Return the mask of one task."""
        return bits.unpack(bank, task)

    def concatenate(self, banks: Sequence[Bank], counts: Sequence[int]) -> Bank:
        """Concatenate banks of masks."""
        return bits.concatenate(banks, counts)

    def superpose(self, weights: Weights, bank: Bank, alphas: Float[Array, "batch tasks"]) -> PyTree[Array]:
        """Return the superpositions of all masks: `bank.superpose`."""
        return bits.superpose(bank, alphas)

    @property
    def superposes_masks(self) -> bool:
        """Whether no subclass overrides `superpose` or `project`, for factors that are not the masks."""
        return type(self).superpose is MaskMethod.superpose and type(self).project is MaskMethod.project

    def count(self, weights: Weights, bank: Bank, chosen: Bool[Array, "batch tasks"]) -> PyTree[Array]:
        """Count the chosen tasks that keep each weight, exactly: `bank.count`; or sum up the factors of a subclass."""
        return bits.count(bank, chosen) if self.superposes_masks else super().count(weights, bank, chosen)

    def project(self, bank: Bank, gradients: PyTree[Array], num_tasks: int) -> Float[Array, "batch tasks"]:
        """Return the inner products with every mask: `bank.project`; gradients may be those of `outer`."""
        if outer.are_outer(gradients):
            return outer.project(bank, gradients, num_tasks)
        return bits.project(bank, gradients, num_tasks)

    def narrow(self, bank: Bank, num_tasks: int) -> Bank:
        """Return the bytes that hold the first tasks: `bank.narrow`."""
        return bits.narrow(bank, num_tasks)

    def counts(self, bank: Bank, num_tasks: int) -> PyTree[Int[Array | np.ndarray, "..."]] | None:
        """Return how many of the first tasks keep each weight; `None` if a subclass superposes or packs differently."""
        is_packed = all(leaf.dtype == np.uint8 for leaf in jax.tree.leaves(bank))
        return count_all(bank, num_tasks) if is_packed and self.superposes_masks else None


@dataclass(frozen=True)
class SupSup(MaskMethod):
    """SupSup: effective weights W ⊙ M, where M is the mask of the task's scores (Section 3.1 of the paper).

    Scores are initialised uniformly in ±1/√fan_in. Weights are not rescaled by the density.

    Attributes:
        mask: hashable function from scores to a mask: `masks.threshold`, `masks.ErdosRenyi(scale)`, or a custom one.
    """

    mask: Callable[[Params], Adapter] = masks.threshold

    stores: ClassVar[str] = "masks"

    def densities(self, weights: PyTree[Any]) -> PyTree[float]:
        """Return the densities of the mask function, or `{}` if they are not fixed."""
        return self.mask.densities(weights) if isinstance(self.mask, masks.TopK | masks.ErdosRenyi) else {}

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Return random scores with the shapes of the weights."""
        return draw(key, weights, pytorch_default)

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """Return the mask of the scores."""
        return self.mask(params)

    def pack(self, adapters: Adapter) -> Bank:
        """Pack masks into a bank, one bit per weight.

        Raises:
            UserError: if an adapter has other values than 0 and 1, which a bit cannot represent.
        """
        leaves = jax.tree.leaves(adapters)
        is_custom = type(self).finalize is not SupSup.finalize or not (
            self.mask is masks.threshold or isinstance(self.mask, masks.TopK | masks.ErdosRenyi)
        )
        if is_custom and not any(isinstance(leaf, Tracer) for leaf in leaves):
            binary = jax.device_get([jnp.all((leaf == 0) | (leaf == 1)) for leaf in leaves])
            if not all(binary):
                raise UserError(
                    f"the adapter of method {type(self).__name__} has values other than 0 and 1, which SupSup would "
                    "keep as single bits; derive the method from Method, or override pack, unpack and concatenate"
                )
        return super().pack(adapters)

    def _account_of_bank(self, bank: Bank, num_tasks: int) -> dict[str, int]:
        """Return the bytes of the masks as bits, and as indices of 16 bits, which is how the paper counts them."""
        packed: Any = jax.device_get(bits.first(bank, num_tasks))
        entries = sum(int(np.bitwise_count(leaf).sum(dtype=np.int64)) for leaf in jax.tree.leaves(packed))
        return {BITS: backend.num_bytes(packed), SPARSE: 2 * entries}


@dataclass(frozen=True)
class Transfer(SupSup):
    """SupSup Transfer: scores start from the mean of the final scores of all earlier tasks.

    The paper describes the mean of their masks (Section 3.2), but its numbers were computed with scores.
    """

    def in_turn(self, task: int) -> bool:
        """Return True: every task uses the scores of all earlier tasks."""
        return True

    def first_carry(self, weights: Weights) -> Carry:
        """Return a sum of zero, and a task count of zero."""
        return {"total": jax.tree.map(jnp.zeros_like, weights), "tasks": jnp.int32(0)}

    def next_carry(self, carry: Any, params: Params) -> Carry:
        """Add the task's scores to the sum."""
        return {"total": jax.tree.map(jnp.add, carry["total"], params), "tasks": carry["tasks"] + 1}

    def init(self, key: Key[Array, ""], weights: Weights, carry: Any = None) -> Params:
        """Return the mean of the earlier tasks' scores; random scores for the first task."""
        random = super().init(key, weights)
        if carry is None:
            return random
        total, tasks = carry["total"], carry["tasks"]
        count = jnp.asarray(jnp.maximum(tasks, 1), jnp.float32)
        return jax.tree.map(lambda drawn, sum_: jnp.where(tasks == 0, drawn, sum_ / count), random, total)
