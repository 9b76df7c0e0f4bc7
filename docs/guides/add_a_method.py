"""Add a method: half of what a mask removes stays.

SupSup sets the weights that a mask removes to zero. Here they keep a fraction of their
values, so that a task is a choice between two strengths of each weight. Twelve tasks on
handwritten digits, each with its pixels in a different order; the task of an image is
inferred by trying all of them.

    python add_a_method.py
    python add_a_method.py --rest 0             # masks as SupSup has them
    python add_a_method.py --method SupSup
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios
from supsup_jax.errors import ArgumentError


@ss.register
@dataclass(frozen=True)
class Dampened(methods.SupSup):
    """A mask that dampens weights instead of removing them.

    Attributes:
        rest: the fraction of its value that a weight keeps where the mask is 0.
    """

    rest: float = 0.5

    # Effective weights are not W ⊙ M, so the searches by one gradient do not apply.
    searches: ClassVar[tuple[str, ...]] = ("Exhaustive",)

    def __post_init__(self) -> None:
        if not 0 <= self.rest < 1:
            raise ArgumentError("rest", self.rest, "must be at least 0 and less than 1")

    def effective_weights(self, weights: Any, adapter: Any) -> Any:
        """The weights, those outside the mask dampened."""
        return jax.tree.map(
            lambda weight, mask: weight * (self.rest + (1 - self.rest) * mask),
            weights,
            adapter,
        )


EXPERIMENT = ss.Experiment(
    name="dampened",
    tasks=data.Permuted(data.Digits(), num_tasks=12),
    network=networks.LeNet(features=20),
    method=Dampened(),
    scenario=scenarios.GNu(ss.Exhaustive(ss.entropy)),
    training=ss.Training(steps=200, batch_size=32, optimizer=optimizers.RMSprop(1e-3)),
    evaluate_at=(4, 8, 12),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
