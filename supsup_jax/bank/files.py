"""Banks of masks on disk, which searches read in part: only the rows and the masks that they need.

The folder of a bank contains `bank.json`, and the folder of segments that it names. The bank is there twice: `rows`
holds for each weight one bit for each task, as a bank in memory does, and `masks` holds for each task one bit for each
weight, since reading one task from the rows would touch every page. `stats` holds the batch-norm statistics of each
task. Rows of these matrices are contiguous, in segments of at most `SEGMENT` bytes. Each row has a CRC-32 checksum,
which is checked when the row is read. `bank.json` is written last, so an unfinished bank is never read.

Weights have the order of `jax.tree.leaves`, flattened.
"""

import json
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree, UInt8

from supsup_jax.bank.segments import BankFileError, Layout, Matrix
from supsup_jax.errors import UserError

FORMAT = 1
"""Version of the format."""

FILE = "bank.json"
"""Description of a bank."""

SEGMENTS = re.compile(r"segments-(\d+)")
"""Name of a folder of segments."""

COUNTS, MEANS = "counts.bin", "mean_stats.bin"
"""Files of the counts of each weight (int32), and of the mean statistics (float32)."""


class BankFiles:
    """A bank on disk.

    Args:
        folder: folder of the bank.

    Attributes:
        folder: folder of the bank.
        source: identifies the tasks in the bank; see `BankWriter`.
        num_tasks: number of tasks.
        rows: one row for each weight: its bits of all tasks, task i at bit `i % 8` of byte `i // 8`.
        masks: one row for each task: the bits of all weights in the same order.
        counts: how many tasks keep each weight, `(weights,)` int32.

    Raises:
        BankFileError: if there is no bank, or its description is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        plain = _described(folder)
        try:
            self.source: str = plain["source"]
            self.num_tasks: int = plain["num_tasks"]
            self._weights = [(name, tuple(shape)) for name, shape in plain["weights"]]
            self._stats = [(name, tuple(shape), np.dtype(kind)) for name, shape, kind in plain["stats"]]
            if not SEGMENTS.fullmatch(plain["segments"]):
                raise ValueError
            self._segments = folder / plain["segments"]
            self._sums: dict[str, int] = plain["crc32"]
            layouts = {name: Layout(name, *numbers) for name, numbers in plain["matrices"].items()}
            found = {name: self._matrix(layout) for name, layout in layouts.items()}
            self.rows, self.masks, self._stats_rows = found["rows"], found["masks"], found.get("stats")
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise BankFileError(folder / FILE, "is damaged") from None
        self.counts: Int[np.ndarray, " weights"] = self._array(COUNTS, np.dtype("<i4"))

    def _matrix(self, layout: Layout) -> Matrix:
        return Matrix(self._segments, layout, self._array(layout.checksums, np.dtype("<u4")))

    def _array(self, name: str, kind: np.dtype) -> np.ndarray:
        """Return the contents of a small file."""
        path = self._segments / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise BankFileError(path, "is missing") from None
        if zlib.crc32(content) != self._sums[name]:
            raise BankFileError(path, "is damaged (checksum mismatch)")
        return np.frombuffer(content, kind)

    @property
    def bytes_read(self) -> int:
        """Number of bytes of rows and masks read so far."""
        return self.rows.bytes_read + self.masks.bytes_read

    def check(self, weights: PyTree[Any], source: str | None = None) -> None:
        """Check that the masks are those of given weights, and of given tasks.

        Args:
            weights: arrays or shapes.
            source: see `BankWriter`; `None` to accept any.

        Raises:
            BankFileError: if they are not.
        """
        if source is not None and source != self.source:
            raise BankFileError(self.folder, f"holds {self.num_tasks} tasks of a different state of this run")
        if described(weights) != self._weights:
            raise BankFileError(self.folder, "holds masks of a different network")

    def read_masks(self, tasks: Int[np.ndarray, " tasks"]) -> UInt8[np.ndarray, "tasks bytes"]:
        """Read the masks of some tasks, given in increasing order, one bit for each weight.

        Raises:
            BankFileError: if a segment is missing, truncated or damaged.
        """
        out = np.empty((len(tasks), self.masks.layout.num_bytes), np.uint8)
        self.masks.read(np.asarray(tasks, np.int64), out)
        return out

    def mask(self, task: int) -> list[np.ndarray]:
        """Read the mask of a task: float32 leaves in the shapes of the weights, in the order of `jax.tree.leaves`."""
        sizes = [math.prod(shape) for _, shape in self._weights]
        bits = np.unpackbits(self.read_masks(np.array([task]))[0], count=sum(sizes), bitorder="little")
        leaves = np.split(bits.astype(np.float32), np.cumsum(sizes)[:-1])
        return [leaf.reshape(shape) for leaf, (_, shape) in zip(leaves, self._weights, strict=True)]

    def stats(self, task: int) -> list[np.ndarray]:
        """Read the batch-norm statistics of a task, in the order of `jax.tree.leaves`."""
        if self._stats_rows is None:
            return []
        out = np.empty((1, self._stats_rows.layout.num_bytes), np.uint8)
        self._stats_rows.read(np.array([task]), out)
        sizes = [math.prod(shape) * kind.itemsize for _, shape, kind in self._stats]
        leaves = np.split(out[0], np.cumsum(sizes)[:-1])
        return [leaf.view(kind).reshape(shape) for leaf, (_, shape, kind) in zip(leaves, self._stats, strict=True)]

    def mean_stats(self) -> list[np.ndarray]:
        """Read the mean of all tasks' batch-norm statistics, in the order of `jax.tree.leaves`."""
        if self._stats_rows is None:
            return []
        sizes = [math.prod(shape) for _, shape, _ in self._stats]
        leaves = np.split(self._array(MEANS, np.dtype("<f4")), np.cumsum(sizes)[:-1])
        return [leaf.reshape(shape) for leaf, (_, shape, _) in zip(leaves, self._stats, strict=True)]


def described(weights: PyTree[Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Return name and shape of each leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), tuple(leaf.shape)) for path, leaf in leaves]


def checksum(plain: dict[str, Any]) -> int:
    """Return the checksum of a description."""
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())


def _described(folder: Path) -> dict[str, Any]:
    """Return the description of a bank.

    Raises:
        BankFileError: if there is none, or it is damaged.
    """
    path = folder / FILE
    try:
        plain = json.loads(path.read_text("utf-8"))
        if plain.pop("checksum") != checksum(plain):
            raise ValueError
        if plain["format"] != FORMAT:
            raise BankFileError(path, f"has format {plain['format']}, and this version reads format {FORMAT}")
    except FileNotFoundError:
        raise BankFileError(folder, "does not contain a bank") from None
    except UserError:
        raise
    except (ValueError, KeyError, AttributeError, TypeError):
        raise BankFileError(path, "is damaged") from None
    return plain


def matrices(num_weights: int, num_tasks: int, stats_bytes: int) -> Sequence[Layout]:
    """Return the layouts of the matrices of a bank."""
    layouts = [Layout.of("rows", num_weights, -(-num_tasks // 8)), Layout.of("masks", num_tasks, -(-num_weights // 8))]
    return [*layouts, Layout.of("stats", num_tasks, stats_bytes)] if stats_bytes else layouts
