"""Methods for learning many tasks in one network, one file per method."""

from supsup_jax.methods.base import Adapter, Bank, Carry, Method, Moment, Params, Phase
from supsup_jax.methods.batche import BatchE
from supsup_jax.methods.bounds import LowerBound, UpperBound
from supsup_jax.methods.exssnet import ExSSNeT
from supsup_jax.methods.hat import HAT
from supsup_jax.methods.heads import FineTuning, SeparateHeads
from supsup_jax.methods.hopsupsup import HopSupSup, Memory
from supsup_jax.methods.packnet import PackNet
from supsup_jax.methods.piggyback import Piggyback
from supsup_jax.methods.psp import PSP
from supsup_jax.methods.supsup import SupSup, Transfer
from supsup_jax.methods.wsn import WSN

__all__ = [
    "HAT",
    "PSP",
    "WSN",
    "Adapter",
    "Bank",
    "BatchE",
    "Carry",
    "ExSSNeT",
    "FineTuning",
    "HopSupSup",
    "LowerBound",
    "Memory",
    "Method",
    "Moment",
    "PackNet",
    "Params",
    "Phase",
    "Piggyback",
    "SeparateHeads",
    "SupSup",
    "Transfer",
    "UpperBound",
]
