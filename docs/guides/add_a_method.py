"""Add a method: masks that dampen weights instead of removing them.

SupSup sets the weights outside a mask to zero. Here they keep a fraction of their
values, so a mask selects one of two strengths for each weight. The experiment has
twelve tasks on handwritten digits, each with its pixels in a different order. The
task of an image is inferred by trying all tasks.

    python add_a_method.py
    python add_a_method.py --kept 0             # the masks of SupSup
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
    """SupSup with masks that dampen weights instead of removing them.

    Attributes:
        kept: fraction of its value that a weight keeps where the mask is 0.
    """

    kept: float = 0.5

    # Effective weights are not W ⊙ M, so searches that superpose masks do not apply.
    searches: ClassVar[tuple[str, ...]] = ("Exhaustive",)

    def __post_init__(self) -> None:
        if not 0 <= self.kept < 1:
            raise ArgumentError("kept", self.kept, "must be at least 0 and less than 1")

    def effective_weights(self, weights: Any, adapter: Any) -> Any:
        """Return the weights, with those outside the mask dampened."""
        return jax.tree.map(
            lambda weight, mask: weight * (self.kept + (1 - self.kept) * mask),
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
