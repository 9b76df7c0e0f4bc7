"""Export of a run's masks as a bank on disk, from one checkpoint at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree, UInt8

from supsup_jax import bank as banks
from supsup_jax.bank.writer import BankWriter
from supsup_jax.errors import UserError
from supsup_jax.inference.on_disk import MEMORY
from supsup_jax.registry import name_of
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.chunks import Chunk
from supsup_jax.runs.run import Run
from supsup_jax.system import atomic, backend

FOLDER = "bank"
"""Folder of the bank in a run's folder."""

# A tile takes this number of times its size in memory: read, joined with others, flattened, transposed.
_COPIES = 6


def check(run: Run) -> None:
    """Check that the bank of a run can be on disk.

    Raises:
        UserError: if its method has no packed masks, or computes them from what checkpoints store.
    """
    method, discovers = name_of("method", run.method), run.experiment.scenario.discovers
    shapes = [] if discovers else jax.tree.leaves(run.tasks.shapes(1)[0])
    expected = [((*leaf.shape, 1), np.uint8) for leaf in jax.tree.leaves(run.weights)]
    if not run.method.has_masks or [(leaf.shape, leaf.dtype) for leaf in shapes] != expected:
        problem = "discovered tasks are stored as scores" if discovers else f"method {method} stores no masks as bits"
        raise UserError(f"{run.folder} cannot have a bank on disk, since {problem}; restore it without bank_on_disk")


def write_bank(run: Run, folder: Path, memory: int = MEMORY) -> None:
    """Write the masks of a run as a bank on disk; see `supsup_jax.bank.files`.

    Args:
        run: a run that was read without its tasks.
        folder: folder of the bank.
        memory: limit in bytes of the masks and their copies, unless a single checkpoint takes more.

    Raises:
        UserError: if the run has no packed masks, is being trained, or cannot be read, or the disk is too small.
    """
    check(run)
    assert run.folder is not None
    with atomic.locked(run.folder), Checkpoints(run.folder) as checkpoints:
        num_tasks = sum(save["new_tasks"] for save in checkpoints.records())
        if (source := checkpoints.digest_of_tasks()) is None:
            raise UserError(f"{run.folder} has no tasks yet; learn one first")
        with BankWriter(folder, run.weights, num_tasks, source, run.fresh_stats) as writer:
            task = byte = 0
            for tile, stats in _tiles(checkpoints.tasks(run.tasks), memory // _COPIES):
                writer.write(tile, byte=byte)
                byte += tile.shape[1]
                for part in stats:
                    writer.write_stats(part, task)
                    task += len(jax.tree.leaves(part)[0])


def _tiles(
    chunks: Iterator[Chunk], most: int
) -> Iterator[tuple[UInt8[np.ndarray, "weights bytes"], list[PyTree[Any]]]]:
    """Yield the bits of all weights for consecutive tasks, whole bytes up to the last tile, and statistics of tasks.

    Args:
        chunks: the tasks.
        most: size of a tile in bytes, unless a chunk is larger.
    """
    bank: Any = None
    count, stats = 0, []
    for chunk in chunks:
        bank, count = (chunk.bank, chunk.num_tasks) if bank is None else _joined(bank, count, chunk)
        if jax.tree.leaves(chunk.stats):
            stats.append(jax.tree.map(lambda leaf, chunk=chunk: leaf[: chunk.num_tasks], chunk.stats))
        whole = count // 8
        if backend.num_bytes(bank) >= most and whole:
            for tile in _parts(banks.first(bank, 8 * whole), whole, most):
                yield tile, stats
                stats = []
            bank = jax.tree.map(lambda leaf, whole=whole: leaf[..., whole:], bank) if count % 8 else None
            count %= 8
    if count:
        for tile in _parts(banks.first(bank, count), -(-count // 8), most):
            yield tile, stats
            stats = []


def _parts(bank: Any, width: int, most: int) -> Iterator[UInt8[np.ndarray, "weights bytes"]]:
    """Yield a bank of `width` bytes a weight as tiles of about `most` bytes."""
    leaves = [np.asarray(leaf).reshape(-1, width) for leaf in jax.tree.leaves(bank)]
    step = max(1, most // sum(map(len, leaves)))
    for byte in range(0, width, step):
        yield np.concatenate([leaf[:, byte : byte + step] for leaf in leaves])


def _joined(bank: Any, count: int, chunk: Chunk) -> tuple[Any, int]:
    return banks.append(bank, count, chunk.bank, chunk.num_tasks), count + chunk.num_tasks
