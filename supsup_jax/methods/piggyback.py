"""Piggyback: tasks learn masks over a trained network that never changes, and a separate last layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Key

from supsup_jax import masks
from supsup_jax.bank import concatenate, first, pack, unpack
from supsup_jax.checks import check_number
from supsup_jax.errors import ArgumentError
from supsup_jax.methods.base import Adapter, Bank, Carry, Params
from supsup_jax.methods.heads import HeadMethod
from supsup_jax.methods.supsup import BITS
from supsup_jax.networks import Weights, draw, pytorch_default
from supsup_jax.system import backend


@dataclass(frozen=True)
class Piggyback(HeadMethod):
    """Piggyback (Mallya, Davis and Lazebnik, ECCV 2018): effective kernels W ⊙ [S ≥ τ] of a trained network.

    The base weights are given, for instance by `Experiment(base_weights=...)`, and never change. A task trains the
    scores S of all kernels and its own last layer. Biases, and gains and statistics of batch norm, are those of the
    given network, in training too. All scores start with one value above τ, so a task begins with the whole network.

    Attributes:
        initial_score: initial value of the scores.
        threshold: threshold τ; kernels with smaller scores are removed.
    """

    initial_score: float = 1e-2
    threshold: float = 5e-3

    freezes_stats: ClassVar[bool] = True
    stacks: ClassVar[bool] = False
    stores: ClassVar[str] = f"{BITS}, and heads"

    def __post_init__(self) -> None:
        check_number("initial_score", self.initial_score)
        check_number("threshold", self.threshold, allow_zero=True)
        if self.initial_score <= self.threshold:
            problem = f"must be greater than threshold {self.threshold:g}, so that a task begins with all weights"
            raise ArgumentError("initial_score", self.initial_score, problem)

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Return equal scores for all kernels, and a random head."""
        scores = jax.tree.map(lambda leaf: jnp.full_like(leaf, self.initial_score), self._kernels(weights))
        return {"scores": scores, "head": draw(key, weights[self.head], pytorch_default)}

    def finalize(self, params: Any, weights: Weights) -> Adapter:
        """Return the mask of the scores, with straight-through gradients, and the head."""
        mask = masks.threshold(jax.tree.map(lambda leaf: leaf - self.threshold, params["scores"]))
        return {"mask": mask, "head": params["head"]}

    def effective_weights(self, weights: Weights, adapter: Any) -> Weights:
        """Return the network with masked kernels and the head of the task."""
        kernels = jax.tree.map(jnp.multiply, self._kernels(weights), adapter["mask"])
        flat: Any = flatten_dict(self.shared(weights)) | flatten_dict(kernels)
        return {**unflatten_dict(flat), self.head: adapter["head"]}

    def pack(self, adapters: Any) -> Bank:
        """Pack masks, one bit per weight; heads are stacked."""
        return adapters | {"mask": pack(adapters["mask"])}

    def unpack(self, bank: Any, task: Any) -> Adapter:
        """Return the mask and the head of one task."""
        return {"mask": unpack(bank["mask"], task), "head": super().unpack(bank["head"], task)}

    def concatenate(self, banks: Sequence[Any], counts: Sequence[int]) -> Bank:
        """Concatenate masks and heads."""
        mask = concatenate([bank["mask"] for bank in banks], counts)
        return {"mask": mask, "head": super().concatenate([bank["head"] for bank in banks], counts)}

    def _account_of_bank(self, bank: Any, num_tasks: int) -> dict[str, int]:
        head = jax.tree.map(lambda leaf: leaf[:num_tasks], bank["head"])
        return {BITS: backend.num_bytes(first(bank["mask"], num_tasks)), "heads": backend.num_bytes(head)}

    def _kernels(self, weights: Weights) -> dict[str, Any]:
        """Return the kernels of all layers but the last."""
        flat: Any = flatten_dict(self.shared(weights))
        return unflatten_dict({path: leaf for path, leaf in flat.items() if leaf.ndim > 1})
