"""What kind of machine this is, how much of its memory a step of a computation may take, and what arrays take."""

import math
import os
from typing import Any

import jax


def is_accelerator() -> bool:
    """Whether JAX computes on a GPU or TPU, where many small steps cost launches, and not on a CPU."""
    return jax.default_backend() != "cpu"


def slice_bytes() -> int:
    """How much of a bank of masks to unpack at once: on a CPU what stays in the cache."""
    return 256 * 2**20 if is_accelerator() else 4 * 2**20


def gradient_bytes() -> int:
    """How much memory the gradients of single images to all weights may take."""
    return 2 * 2**30 if is_accelerator() else 128 * 2**20


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(device: Any) -> int:
    """The memory of an accelerator, in bytes; a cautious guess where it does not say."""
    return (device.memory_stats() or {}).get("bytes_limit", 8 * 2**30)


def num_bytes(tree: Any) -> int:
    """The bytes that a pytree of arrays, or of what has their shape and dtype, takes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
