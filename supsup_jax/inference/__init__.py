"""Task inference: objectives, and searches over the superposition of all masks (Section 3.3 of the paper)."""

from supsup_jax.inference.binary import Binary, binary_path
from supsup_jax.inference.descent import Descent, descent_path
from supsup_jax.inference.objectives import Objective, entropy, maximum, superfluous
from supsup_jax.inference.recovery import Recovery
from supsup_jax.inference.search import Search
from supsup_jax.inference.searches import (
    Exhaustive,
    OneShot,
    alpha_gradient,
    gradient_among,
    infer,
    memory,
    objective_of_each,
)
from supsup_jax.inference.shortlist import Shortlist

__all__ = [
    "Binary",
    "Descent",
    "Exhaustive",
    "Objective",
    "OneShot",
    "Recovery",
    "Search",
    "Shortlist",
    "alpha_gradient",
    "binary_path",
    "descent_path",
    "entropy",
    "gradient_among",
    "infer",
    "maximum",
    "memory",
    "objective_of_each",
    "superfluous",
]
