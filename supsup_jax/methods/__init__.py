"""What a task owns, and how it becomes effective weights: one file a method."""

from supsup_jax.methods.base import Kept, Legacy, Method, Owned, Store
from supsup_jax.methods.batche import BatchE
from supsup_jax.methods.bounds import LowerBound, UpperBound
from supsup_jax.methods.heads import FineTuning, SeparateHeads
from supsup_jax.methods.hopsupsup import HopSupSup, Memory
from supsup_jax.methods.psp import PSP
from supsup_jax.methods.supsup import SupSup, Transfer

__all__ = [
    "PSP",
    "BatchE",
    "FineTuning",
    "HopSupSup",
    "Kept",
    "Legacy",
    "LowerBound",
    "Memory",
    "Method",
    "Owned",
    "SeparateHeads",
    "Store",
    "SupSup",
    "Transfer",
    "UpperBound",
]
