"""Banks of masks: packed as bits, multiplied, counted, and stored on disk."""

from supsup_jax.bank.bits import (
    Bank,
    append,
    bytes_per_weight,
    concatenate,
    count,
    first,
    narrow,
    pack,
    project,
    replace,
    superpose,
    unpack,
)

__all__ = [
    "Bank",
    "append",
    "bytes_per_weight",
    "concatenate",
    "count",
    "first",
    "narrow",
    "pack",
    "project",
    "replace",
    "superpose",
    "unpack",
]
