"""The backend: kind of device, memory limits of computations, and JAX's compilation cache."""

import contextlib
import ctypes
import hashlib
import math
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from supsup_jax.system import locks

_ALIGNMENT = 64

# Seconds to wait for the lock of the compilation cache. Other processes hold it for milliseconds.
_CACHE_PATIENCE = 1.0


def is_accelerator() -> bool:
    """Return whether JAX computes on a GPU or TPU, where each of many small steps costs a kernel launch."""
    return jax.default_backend() != "cpu"


def slice_bytes() -> int:
    """Return the bytes to unpack or gather at once; on a CPU this amount fits in its cache."""
    return 256 * 2**20 if is_accelerator() else 4 * 2**20


def gradient_bytes() -> int:
    """Return the bytes that the gradients of single images with respect to all weights may take."""
    return 2 * 2**30 if is_accelerator() else 128 * 2**20


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(device: Any) -> int:
    """Return the memory of an accelerator in bytes, or a cautious guess where the device does not report it."""
    return (device.memory_stats() or {}).get("bytes_limit", 8 * 2**30)


def use_one_blas_thread() -> None:
    """Make LAPACK compute on the thread that calls it. Call this before JAX calls LAPACK.

    Every device has a core already, and OpenBLAS threads spin while they wait for each other. If other work occupies
    their cores, the QR decomposition for a PSP rotation takes ten times as long.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def keep_compiled() -> None:
    """Cache compiled programs on disk for later processes. Call this before JAX compiles anything.

    The folder is in the user's cache and limited to 1 GiB, unless `JAX_COMPILATION_CACHE_DIR` names a different one.
    Each processor type has a separate folder: nodes of a cluster that share a home may differ, and code compiled for
    one processor can crash on another. If the folder cannot be created or locked, nothing is cached.
    """
    if named := jax.config.values.get("jax_compilation_cache_dir"):
        if jax.config.values.get("jax_compilation_cache_max_size") != -1 and "://" not in named:
            _is_usable(Path(named))
        return
    processor = hashlib.sha256(f"{platform.machine()}{_processor_features()}".encode()).hexdigest()[:12]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "supsup_jax" / f"compiled-{processor}"
    if not _is_usable(folder):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", 2**30)
    # The first steps of a run are many small programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _is_usable(folder: Path) -> bool:
    """Return whether JAX can cache programs in a folder; without locks, print a line and disable the cache.

    JAX holds the lock while it writes a program and then the time of its last use. A program whose process was killed
    between the two is removed, since JAX would then cache no further programs.
    """
    lock = folder / ".lockfile"
    reason = f"the file system of {folder} has no locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if locks.are_supported(lock):
            with locks.held(lock, _CACHE_PATIENCE):
                for program in folder.glob("*-cache"):
                    if not program.with_name(program.name.removesuffix("cache") + "atime").exists():
                        program.unlink()
            return True
    except locks.LockedError as error:
        reason = str(error)
    except OSError:
        return False
    jax.config.update("jax_enable_compilation_cache", False)  # JAX would wait for the lock at every program
    remedy = "set JAX_COMPILATION_CACHE_DIR to a folder on another disk to keep them"
    print(f"compiled programs are not kept ({reason}); {remedy}", file=sys.stderr, flush=True)
    return False


def _processor_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux, where machines rarely share a home
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def aligned(tree: Any) -> Any:
    """Return NumPy arrays with the same values that JAX can use on all CPU devices without copying them.

    JAX copies arrays whose addresses are not multiples of 64, which those of NumPy are by chance. The arrays are
    read-only.
    """

    def leaf(array: np.ndarray) -> np.ndarray:
        if array.ctypes.data % _ALIGNMENT or not array.flags.c_contiguous:
            memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
            first = -memory.ctypes.data % _ALIGNMENT
            same = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
            same[...] = array
            array = same
        array.flags.writeable = False
        return array

    return jax.tree.map(leaf, tree)


def return_memory() -> None:
    """Return freed memory to the operating system; glibc otherwise keeps hundreds of megabytes."""
    with contextlib.suppress(OSError, AttributeError):  # a different C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def num_bytes(tree: Any) -> int:
    """Return the bytes that a pytree of arrays, or of objects with a shape and dtype, takes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def scan_chunks(
    function: Callable[..., tuple[Any, Array]], carry: Any, chunks: int, *batches: Array
) -> tuple[Any, Array]:
    """Call a function on chunks of batches, so that the intermediate arrays of one chunk fit in memory.

    Args:
        function: called as `function(carry, *chunk)` with a chunk of each batch. It returns the next carry and an array
            with one row for each row of the chunk. If the batches do not divide evenly, zeros are appended: they must
            not change the carry, and their rows are dropped from the result.
        carry: the initial carry.
        chunks: the minimum number of nearly equal chunks, unless there are fewer rows.
        batches: arrays with the same number of rows.

    Returns:
        The last carry, and the concatenated rows of all chunks.
    """
    if chunks <= 1:
        return function(carry, *batches)
    rows = len(batches[0])
    size = math.ceil(rows / chunks)
    chunks = math.ceil(rows / size)
    added = chunks * size - rows
    padded = [jnp.pad(batch, ((0, added), *(batch.ndim - 1) * ((0, 0),))) for batch in batches]
    parts = [batch.reshape(chunks, size, *batch.shape[1:]) for batch in padded]
    carry, outcome = jax.lax.scan(lambda carry, parts: function(carry, *parts), carry, parts)
    return carry, outcome.reshape(-1, *outcome.shape[2:])[:rows]
