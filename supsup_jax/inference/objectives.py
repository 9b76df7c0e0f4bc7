"""What task inference makes small: functions of the network's outputs (Sections 3.3 and 3.6 of the paper)."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Objective = Callable[[Array], Array]
"""From logits `(batch, outputs)` to one number for each image, `(batch,)`; hashable."""


def entropy(logits: Float[Array, "batch outputs"]) -> Float[Array, " batch"]:
    """The objective H: the entropy of the softmax of the logits, in nats."""
    log_p = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_p) * log_p).sum(-1)


def maximum(logits: Float[Array, "batch outputs"]) -> Float[Array, " batch"]:
    """The largest probability that the softmax of the logits gives, times -1: it is smallest where a class is sure."""
    return -jax.nn.softmax(logits).max(-1)


@dataclass(frozen=True)
class superfluous:  # noqa: N801 - used as a function: objective=superfluous(real=10)
    """The objective G: logsumexp of all logits, to which only superfluous neurons carry gradient (Section 3.6).

    Attributes:
        real: the number of outputs that stand for classes; they come first.
    """

    real: int

    def __post_init__(self) -> None:
        if self.real < 1:
            raise ValueError(f"{self.real} outputs stand for no class; there must be one at least")

    def __call__(self, logits: Float[Array, "batch outputs"]) -> Float[Array, " batch"]:
        """One number for each image."""
        is_real = jnp.arange(logits.shape[-1]) < self.real
        return jax.nn.logsumexp(jnp.where(is_real, jax.lax.stop_gradient(logits), logits), axis=-1)
