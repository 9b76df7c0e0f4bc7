"""Which task is this? Objectives, and searches over the superposition of all masks (Section 3.3 of the paper)."""

from supsup_jax.inference.objectives import Objective, entropy, maximum, superfluous
from supsup_jax.inference.searches import (
    Inference,
    alpha_gradient,
    binary,
    binary_path,
    exhaustive,
    gradient_among,
    memory,
    objective_of_each,
    one_shot,
)

__all__ = [
    "Inference",
    "Objective",
    "alpha_gradient",
    "binary",
    "binary_path",
    "entropy",
    "exhaustive",
    "gradient_among",
    "maximum",
    "memory",
    "objective_of_each",
    "one_shot",
    "superfluous",
]
