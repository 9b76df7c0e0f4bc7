"""PackNet: tasks train free weights, prune most of them, retrain the remaining ones, and freeze these."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from supsup_jax.checks import check_number
from supsup_jax.errors import ArgumentError
from supsup_jax.methods.base import Adapter, Carry, Params, Phase
from supsup_jax.methods.supsup import BITS, MaskMethod
from supsup_jax.networks import Weights


@dataclass(frozen=True)
class PackNet(MaskMethod):
    """PackNet (Mallya and Lazebnik, CVPR 2018): effective weights W ⊙ M, where M keeps what tasks 0 to t use.

    A task trains all weights that no earlier task uses. Then, in each layer, it keeps the largest of them, sets the
    others to 0, and retrains the kept ones. Later tasks do not change them, so nothing is forgotten.

    Attributes:
        keep: fraction of the free weights of each layer that a task keeps; 0.5 prunes half of them.
        retraining: share of the task's updates that come after pruning.
    """

    keep: float = 0.5
    retraining: float = 1 / 3

    trains_params: ClassVar[bool] = False
    stores: ClassVar[str] = BITS

    def __post_init__(self) -> None:
        check_number("keep", self.keep)
        if self.keep > 1:
            raise ArgumentError("keep", self.keep, "must be a fraction above 0, at most 1")
        if not 0 < self.retraining < 1:
            raise ArgumentError("retraining", self.retraining, "must be a fraction between 0 and 1")

    def trains_weights(self, task: int) -> bool:
        """Return true: every task trains the weights that are free."""
        return True

    def phases(self, task: int) -> tuple[Phase, ...]:
        """Return two phases, training and retraining."""
        return Phase(True, False, 1 - self.retraining), Phase(True, False, self.retraining)

    def first_carry(self, weights: Weights) -> Carry:
        """Return a mask of the used weights: there are none yet."""
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), weights)

    def next_carry(self, carry: Carry, params: Params) -> Carry:
        """Return the mask of the weights that this task or an earlier one uses."""
        return params["mask"]

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Return the mask of used weights, and a mask that keeps all weights until the task is pruned."""
        used = self.first_carry(weights) if carry is None else carry
        return {"used": used, "mask": jax.tree.map(jnp.ones_like, used)}

    def begin_phase(self, phase: int, weights: Weights, params: Params) -> tuple[Weights, Params]:
        """Prune: keep the largest free weights of each layer and all used ones, and set the others to 0."""
        mask = jax.tree.map(self._prune, weights, params["used"])
        return jax.tree.map(jnp.multiply, weights, mask), params | {"mask": mask}

    def update_share(self, weights: Weights, params: Params, phase: int) -> Weights:
        """Return 1 for weights of the mask that no earlier task uses."""
        return jax.tree.map(
            lambda mask, used, leaf: (mask & ~used).astype(leaf.dtype), params["mask"], params["used"], weights
        )

    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """Return the mask."""
        return params["mask"]

    def _prune(self, weight: Any, used: Any) -> Any:
        """Return the mask of used weights and of the fraction `keep` of the free ones with the largest values."""
        magnitude = jnp.where(used, -1.0, jnp.abs(weight)).reshape(-1)
        count = jnp.round(self.keep * (~used).sum().astype(jnp.float32)).astype(jnp.int32)
        rank = jnp.zeros(magnitude.size, jnp.int32).at[jnp.argsort(-magnitude)].set(jnp.arange(magnitude.size))
        return used | (rank < count).reshape(used.shape)
