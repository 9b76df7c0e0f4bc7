"""Objectives that task inference minimises: functions of the network's outputs (Sections 3.3 and 3.6 of the paper)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from supsup_jax.arguments import Part
from supsup_jax.checks import check_count
from supsup_jax.errors import ArgumentError

Objective = Callable[[Array], Array]
"""Maps logits `(batch, outputs)` to one number for each image, `(batch,)`; hashable."""


def for_classes(objective: Objective, num_classes: int) -> Objective:
    """Return the objective for networks whose first `num_classes` outputs stand for classes."""
    bind: Any = getattr(objective, "for_classes", None)
    return bind(num_classes) if bind else objective


def entropy(logits: Float[Array, "batch outputs"]) -> Float[Array, " batch"]:
    """Return the objective H: the entropy of the softmax of the logits, in nats."""
    log_p = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_p) * log_p).sum(-1)


def maximum(logits: Float[Array, "batch outputs"]) -> Float[Array, " batch"]:
    """Return the largest softmax probability, times -1, so that it is smallest if one class is certain."""
    return -jax.nn.softmax(logits).max(-1)


@dataclass(frozen=True)
class superfluous(Part):  # noqa: N801 - used as a function: objective=superfluous(real=10)
    """The objective G of superfluous neurons (Section 3.6).

    Its gradient is the paper's: the gradient of the logsumexp of all logits, with the logits of the classes held
    constant. That logsumexp is largest for the right task, so its value cannot be minimised over tasks. The value is
    therefore a different one: the log of the total softmax probability of all superfluous neurons.

    Attributes:
        real: the number of outputs that stand for classes, which come first. In an experiment the tasks define it.

    Raises:
        ArgumentError: if `real` is below 1.
    """

    kind: ClassVar[str] = "objective"
    derived: ClassVar[tuple[str, ...]] = ("real",)

    real: int | None = None

    def __post_init__(self) -> None:
        if self.real is not None:
            check_count("real", self.real)

    def for_classes(self, num_classes: int) -> "superfluous":
        """Return the objective for networks whose first `num_classes` outputs stand for classes."""
        return superfluous(num_classes) if self.real is None else self

    def __call__(self, logits: Float[Array, "batch outputs"]) -> Float[Array, " batch"]:
        """Return one number for each image.

        Raises:
            ArgumentError: if the number of outputs that stand for classes is not known.
        """
        if self.real is None:
            raise ArgumentError("real", None, "give the number of outputs that stand for classes: superfluous(real=10)")
        is_real, held = jnp.arange(logits.shape[-1]) < self.real, jax.lax.stop_gradient(logits)
        total = jax.nn.logsumexp(jnp.where(is_real, held, logits), axis=-1)
        share = jax.nn.logsumexp(jnp.where(is_real, -jnp.inf, held), axis=-1) - jax.nn.logsumexp(held, axis=-1)
        return share + (total - jax.lax.stop_gradient(total))  # 0, with a gradient
