"""Methods for learning many tasks in one network, one file per method."""

from supsup_jax.methods.base import Adapter, Bank, Carry, Method, Params
from supsup_jax.methods.batche import BatchE
from supsup_jax.methods.bounds import LowerBound, UpperBound
from supsup_jax.methods.heads import FineTuning, SeparateHeads
from supsup_jax.methods.hopsupsup import HopSupSup, Memory
from supsup_jax.methods.psp import PSP
from supsup_jax.methods.supsup import SupSup, Transfer

__all__ = [
    "PSP",
    "Adapter",
    "Bank",
    "BatchE",
    "Carry",
    "FineTuning",
    "HopSupSup",
    "LowerBound",
    "Memory",
    "Method",
    "Params",
    "SeparateHeads",
    "SupSup",
    "Transfer",
    "UpperBound",
]
