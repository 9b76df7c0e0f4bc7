"""Matrices of bytes on disk: segments of contiguous rows, each row with a checksum that is checked when it is read."""

import functools
import math
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import groupby, pairwise
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Int, UInt8

from supsup_jax.errors import UserError

SEGMENT = 2**30
"""Maximum size of a segment in bytes, unless a single row is larger."""

THREADS = 16
"""Number of threads that read. Disks reach their full rate only with many requests at a time."""

# Largest read in bytes, and the largest gap between two rows that is read rather than skipped.
_READ, _GAP = 2**20, 2**15

AHEAD = 2
"""Number of blocks that are read while another one is used."""

# Number of parts that the reads of a block are divided into, for the threads.
_PARTS = 64


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Return the threads that read all banks of this process."""
    return ThreadPoolExecutor(THREADS, "bank")


class BankFileError(UserError):
    """Error: a bank on disk is missing or damaged, or belongs to different tasks.

    Args:
        path: the file or folder.
        problem: what is wrong with it.
    """

    def __init__(self, path: Path, problem: str):
        super().__init__(f"{path} {problem}; write the bank again: python -m supsup_jax export-bank RUN")


@dataclass(frozen=True)
class Layout:
    """Layout of a matrix of bytes in segments.

    Attributes:
        name: name of the matrix, with which the names of its files begin.
        num_rows: number of rows.
        num_bytes: bytes of a row.
        per_segment: rows of a segment; the last segment may have fewer.
    """

    name: str
    num_rows: int
    num_bytes: int
    per_segment: int

    @classmethod
    def of(cls, name: str, num_rows: int, num_bytes: int) -> "Layout":
        """Return the layout with segments of at most `SEGMENT` bytes."""
        return cls(name, num_rows, num_bytes, max(1, SEGMENT // num_bytes))

    @property
    def checksums(self) -> str:
        """Name of the file of checksums, uint32."""
        return f"{self.name}.crc32"

    def file(self, segment: int) -> str:
        """Return the name of the file of a segment."""
        return f"{self.name}-{segment:04d}.bin"

    def segments(self) -> Iterator[tuple[str, int]]:
        """Yield the name and the number of rows of each segment."""
        for segment in range(-(-self.num_rows // self.per_segment)):
            yield self.file(segment), min(self.per_segment, self.num_rows - segment * self.per_segment)


class Matrix:
    """A matrix of bytes on disk, whose rows are read and checked.

    Args:
        folder: folder of the segments.
        layout: the layout.
        checksums: CRC-32 of each row.

    Attributes:
        layout: the layout.
        bytes_read: number of bytes read so far.
    """

    def __init__(self, folder: Path, layout: Layout, checksums: np.ndarray):
        self._folder, self.layout, self._checksums = folder, layout, checksums
        self.bytes_read, self._counting = 0, Lock()

    def read(self, wanted: Int[np.ndarray, " rows"], out: UInt8[np.ndarray, "rows bytes"]) -> None:
        """Read some rows.

        Args:
            wanted: numbers of the rows, in increasing order.
            out: array to read them into.

        Raises:
            BankFileError: if a segment is missing, truncated or damaged.
        """
        reads = self._reads(wanted)
        size = max(1, -(-len(reads) // _PARTS))
        parts = [reads[first : first + size] for first in range(0, len(reads), size)]
        read = _threads().map if len(parts) > 1 else map
        num_bytes = sum(read(lambda part: self._read_part(part, wanted, out), parts))
        with self._counting:
            self.bytes_read += num_bytes

    def _reads(self, wanted: Int[np.ndarray, " rows"]) -> list[slice]:
        """Return the rows of each read, as slices of the wanted ones: they are near each other, in one segment."""
        if not len(wanted):
            return []
        size = self.layout.num_bytes
        group = wanted // self.layout.per_segment * (self.layout.per_segment + 1) + (
            wanted % self.layout.per_segment // max(1, _READ // size)
        )
        is_new = (np.diff(wanted) > max(1, _GAP // size)) | (np.diff(group) != 0)
        bounds = [0, *(np.flatnonzero(is_new) + 1).tolist(), len(wanted)]
        return [slice(first, stop) for first, stop in pairwise(bounds)]

    def _read_part(
        self, reads: list[slice], wanted: Int[np.ndarray, " rows"], out: UInt8[np.ndarray, "rows bytes"]
    ) -> int:
        """Read and check some rows, and return the number of bytes."""
        size, total = self.layout.num_bytes, 0
        for segment, together in groupby(reads, lambda read: int(wanted[read.start]) // self.layout.per_segment):
            path = self._folder / self.layout.file(segment)
            with _opened(path) as file:
                for read in together:
                    rows, first = wanted[read], int(wanted[read.start])
                    span = int(wanted[read.stop - 1]) - first + 1
                    is_whole = span == len(rows)
                    read_into = out[read] if is_whole else np.empty((span, size), np.uint8)
                    file.seek((first - segment * self.layout.per_segment) * size)
                    _fill(file, path, read_into)
                    if not is_whole:
                        out[read] = read_into[rows - first]
                    self._check(path, rows, out[read])
                    total += span * size
        return total

    def _check(self, path: Path, rows: Int[np.ndarray, " rows"], content: UInt8[np.ndarray, "rows bytes"]) -> None:
        found = np.fromiter(map(zlib.crc32, content), np.uint32, len(content))
        if damaged := np.flatnonzero(found != self._checksums[rows]).tolist():
            raise BankFileError(path, f"is damaged (checksum mismatch in row {rows[damaged[0]]})")


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    """Open a segment.

    Raises:
        BankFileError: if it is missing, or cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            yield file
    except FileNotFoundError:
        raise BankFileError(path, "is missing") from None
    except OSError as error:
        raise BankFileError(path, f"cannot be read ({error.strerror})") from None


def _fill(file: FileIO, path: Path, out: UInt8[np.ndarray, "rows bytes"]) -> None:
    """Fill an array from the position of a file.

    Raises:
        BankFileError: if the file ends before.
    """
    unread = out.reshape(-1).data
    while unread:
        count = file.readinto(unread)
        if not count:
            raise BankFileError(path, "is truncated")
        unread = unread[count:]


def read_ahead(
    matrix: Matrix, wanted: Int[np.ndarray, " rows"], size: int
) -> Iterator[tuple[slice, UInt8[np.ndarray, "{size} bytes"]]]:
    """Yield the wanted rows in blocks, while the next `AHEAD` blocks are read.

    Args:
        matrix: the matrix.
        wanted: numbers of the rows, in increasing order.
        size: rows of a block. All blocks have this number; in the last one, further rows have any values.

    Yields:
        The wanted rows in the block, and the block, which is overwritten as soon as the next one is asked for.

    Raises:
        BankFileError: if a segment is missing, truncated or damaged.
    """
    parts = [slice(first, min(first + size, len(wanted))) for first in range(0, len(wanted), size)]
    free = [_aligned((size, matrix.layout.num_bytes)) for _ in parts[: AHEAD + 1]]

    def read(part: slice, block: np.ndarray) -> np.ndarray:
        matrix.read(wanted[part], block[: part.stop - part.start])
        return block

    blocks: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(AHEAD, "bank-ahead") as ahead:
        for part in parts[:AHEAD]:
            blocks.append(ahead.submit(read, part, free.pop()))
        for number, part in enumerate(parts):
            block = blocks.popleft().result()
            if number + AHEAD < len(parts):
                blocks.append(ahead.submit(read, parts[number + AHEAD], free.pop()))
            yield part, block
            free.append(block)


def _aligned(shape: tuple[int, int]) -> UInt8[np.ndarray, "rows bytes"]:
    """Return an array that JAX can use on a CPU without copying it; `backend.aligned` copies a given one."""
    size = math.prod(shape)
    memory = np.zeros(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size].reshape(shape)
