"""ExSSNeT: tasks train a mask, then the weights under it that no earlier task uses."""

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Key

from supsup_jax.methods.base import Params, Phase
from supsup_jax.methods.supsup import SupSup
from supsup_jax.methods.wsn import WSN
from supsup_jax.networks import Weights


@dataclass(frozen=True)
class ExSSNeT(WSN):
    """Exclusive supermask subnetworks (Yadav and Bansal, 2022), without the transfer of masks between tasks.

    A task first trains scores on fixed weights, as in SupSup. Then it keeps its mask, and trains the weights that its
    mask keeps and no earlier mask does. Weights under earlier masks are frozen, so nothing is forgotten.

    Attributes:
        mask: maps scores to a mask, `masks.TopK(density)`.
        weight_share: share of the task's updates that train weights.
    """

    weight_share: float = 0.5

    def phases(self, task: int) -> tuple[Phase, ...]:
        """Return two phases: the first one trains scores, the second one weights."""
        return Phase(False, True, 1 - self.weight_share), Phase(True, False, self.weight_share)

    def init(self, key: Key[Array, ""], weights: Weights, carry: Any = None) -> Params:
        """Return random scores, and the mask of used weights."""
        carry = self.first_carry(weights) if carry is None else carry
        return {"scores": SupSup.init(self, key, weights), "used": carry["used"]}

    def update_share(self, weights: Weights, params: Any, phase: int) -> Weights:
        """Return 1 for weights that the task's mask keeps and no earlier mask does."""
        free = super().update_share(weights, params, phase)
        return jax.tree.map(lambda free, mask: free * mask, free, self.mask(params["scores"]))
