"""What kind of machine this is, how much of its memory computations may take, and where it keeps what it compiled."""

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
from jaxtyping import Array

from supsup_jax.system import locks

# Seconds to wait for the lock of the compilation cache, which others hold for milliseconds.
_CACHE_PATIENCE = 1.0


def is_accelerator() -> bool:
    """Whether JAX computes on a GPU or TPU, where many small steps cost launches, and not on a CPU."""
    return jax.default_backend() != "cpu"


def slice_bytes() -> int:
    """How much to unpack or lay out at once: on a CPU what stays in the cache."""
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


def use_one_blas_thread() -> None:
    """Has LAPACK compute on the thread that calls it; call it before JAX calls LAPACK.

    Every device has a core already, and the threads of OpenBLAS wait actively for each other: where other work has
    their cores, the QR decomposition of a rotation of PSP takes ten times as long.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def keep_compiled() -> None:
    """Keeps what is compiled on disk, for later processes; call it before JAX compiles anything.

    The folder is the user's cache, of at most 1 GiB, unless `JAX_COMPILATION_CACHE_DIR` names another. There is one for
    each kind of processor: nodes of a cluster that share a home may differ, and code for one can crash on another.
    Where it cannot be made or locked, nothing is kept.
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
    """Whether JAX can keep programs of a limited size in a folder; if it cannot lock it, says so and keeps none.

    JAX holds the lock while it writes a program, and after it the time of its last use. What a process that was killed
    has not written whole is removed: JAX would keep nothing more beside it.
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
    jax.config.update("jax_enable_compilation_cache", False)  # JAX would wait for its lock again and again
    said = "set JAX_COMPILATION_CACHE_DIR to a folder on another disk to keep them"
    print(f"compiled programs are not kept ({reason}); {said}", file=sys.stderr, flush=True)
    return False


def _processor_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux: a home there is one machine's
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def num_bytes(tree: Any) -> int:
    """The bytes that a pytree of arrays, or of what has their shape and dtype, takes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def scan_chunks(
    function: Callable[..., tuple[Any, Array]], carry: Any, chunks: int, *batches: Array
) -> tuple[Any, Array]:
    """Works on batches a chunk at a time, so that what is laid out for one chunk fits in memory.

    Returns what is carried through nearly equal chunks of batches, and what comes of each, put together.

    Args:
        function: gives what is carried on, and a row for each row of a chunk; it takes what is carried, and a chunk of
            each batch. Where the batches do not divide, zeros follow them: these must leave what is carried as it is,
            and rows that come of them are left out.
        carry: what is carried first.
        chunks: how many chunks to make at least, unless there are fewer rows.
        batches: arrays with as many rows each.
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
