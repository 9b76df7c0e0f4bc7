"""What a task owns, and how it becomes effective weights: one file a method."""

from supsup_jax.methods.base import Kept, Method, Owned, Store
from supsup_jax.methods.batche import BatchE
from supsup_jax.methods.bounds import LowerBound, UpperBound
from supsup_jax.methods.hopsupsup import HopSupSup, Memory
from supsup_jax.methods.psp import PSP
from supsup_jax.methods.supsup import SupSup

__all__ = [
    "PSP",
    "BatchE",
    "HopSupSup",
    "Kept",
    "LowerBound",
    "Memory",
    "Method",
    "Owned",
    "Store",
    "SupSup",
    "UpperBound",
]
