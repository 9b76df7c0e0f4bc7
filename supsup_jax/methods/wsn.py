"""Winning Subnetworks: tasks train weights and scores together, and freeze the weights that their masks keep."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from supsup_jax import bank as banks
from supsup_jax import masks
from supsup_jax.methods.base import Adapter, Bank, Carry, Params
from supsup_jax.methods.supsup import SupSup
from supsup_jax.networks import Weights

HUFFMAN = "masks in a Huffman code"
"""Storage of masks as WSN counts it: a Huffman code of the masks of seven tasks at a time."""


@dataclass(frozen=True)
class WSN(SupSup):
    """Winning Subnetworks (Kang et al., ICML 2022): effective weights W ⊙ M, where M keeps the largest scores.

    Weights and scores are trained together. Weights that the mask of an earlier task keeps are frozen, but later masks
    may keep them too. Scores start where the task before ended, the first ones uniform in ±1/√fan_in.

    Attributes:
        mask: maps scores to a mask: `masks.TopK(density)`, where the density is the capacity c of the paper.
    """

    mask: Callable[[Params], Adapter] = field(default_factory=lambda: masks.TopK(0.5))

    def trains_weights(self, task: int) -> bool:
        """Return true: every task trains the weights that are free."""
        return True

    def first_carry(self, weights: Weights) -> Carry:
        """Return a mask of the used weights and scores: there are none yet."""
        used = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), weights)
        return {"used": used, "scores": jax.tree.map(jnp.zeros_like, weights), "tasks": jnp.int32(0)}

    def next_carry(self, carry: Any, params: Any) -> Carry:
        """Return the weights that this task or an earlier one uses, and the scores."""
        used = jax.tree.map(lambda used, mask: used | (mask > 0), params["used"], self.mask(params["scores"]))
        return {"used": used, "scores": params["scores"], "tasks": carry["tasks"] + 1}

    def init(self, key: Key[Array, ""], weights: Weights, carry: Any = None) -> Params:
        """Return scores, and the mask of used weights, which is not trained."""
        carry = self.first_carry(weights) if carry is None else carry
        random = super().init(key, weights)
        scores = jax.tree.map(lambda new, old: jnp.where(carry["tasks"] == 0, new, old), random, carry["scores"])
        return {"scores": scores, "used": carry["used"]}

    def is_trained(self, params: Any) -> Any:
        """Return true for the scores."""
        return {"scores": True, "used": False}

    def update_share(self, weights: Weights, params: Any, phase: int) -> Weights:
        """Return 1 for weights that no earlier task uses."""
        return jax.tree.map(lambda used, leaf: (~used).astype(leaf.dtype), params["used"], weights)

    def finalize(self, params: Any, weights: Weights) -> Adapter:
        """Return the mask of the scores."""
        return self.mask(params["scores"])

    def _account_of_bank(self, bank: Bank, num_tasks: int) -> dict[str, int]:
        """Return the bytes of the masks in the forms of SupSup, and in the Huffman code of the paper's appendix."""
        return super()._account_of_bank(bank, num_tasks) | {HUFFMAN: _huffman_bytes(bank, num_tasks)}


def _huffman_bytes(bank: Bank, num_tasks: int) -> int:
    """Return the bytes of masks whose bits of seven tasks at a time make a symbol of a Huffman code."""
    leaves = jax.tree.leaves(jax.device_get(banks.first(bank, num_tasks)))
    rows = np.concatenate([leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves])
    bits = np.unpackbits(rows, axis=-1, bitorder="little")[:, :num_tasks]
    total = 0
    for first in range(0, num_tasks, 7):
        part = bits[:, first : first + 7]
        counts = np.bincount(part @ (1 << np.arange(part.shape[1])))
        heap = counts[counts > 0].tolist()
        heapq.heapify(heap)
        while len(heap) > 1:
            merged = heapq.heappop(heap) + heapq.heappop(heap)
            total += merged
            heapq.heappush(heap, merged)
    return -(-total // 8)
