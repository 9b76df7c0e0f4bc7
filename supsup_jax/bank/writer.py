"""Writing of banks of masks to disk, in parts that fit in memory; see `files` for the format."""

import contextlib
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree, UInt8

from supsup_jax.bank.files import COUNTS, FILE, FORMAT, MEANS, SEGMENTS, checksum, described, matrices
from supsup_jax.bank.segments import Layout
from supsup_jax.errors import UserError
from supsup_jax.system import atomic

# Weights, and bytes of each, whose bits are transposed at once: they fit in the cache, as does a line of each mask.
_WEIGHTS, _BYTES = 2**9, 2**11


class BankWriter:
    """Writes a bank to disk; a context manager.

    Tiles are written in any order that reaches each weight and each task in turn, for example all weights of some tasks
    at a time, or all tasks of some weights. A tile takes about three times its size in memory. The bank replaces an
    existing one when all of it is on disk; until then, and after an error, the existing one stays.

    Args:
        folder: folder of the bank; created if it does not exist.
        weights: arrays or shapes of the weights.
        num_tasks: number of tasks.
        source: identifies the tasks, so that a bank of other tasks is noticed.
        stats: arrays or shapes of the batch-norm statistics of one task.

    Raises:
        UserError: if the disk is too small, or another process writes a bank in this folder.
    """

    def __init__(self, folder: Path, weights: PyTree[Any], num_tasks: int, source: str, stats: PyTree[Any] = None):
        self._folder, self._num_tasks = folder, num_tasks
        self._stats = [
            (name, shape, np.dtype(leaf.dtype))
            for (name, shape), leaf in zip(described(stats), jax.tree.leaves(stats), strict=True)
        ]
        self._plain = {"format": FORMAT, "source": source, "num_tasks": num_tasks, "weights": described(weights)}
        num_weights = sum(int(np.prod(shape)) for _, shape in described(weights))
        stats_bytes = sum(int(np.prod(shape)) * kind.itemsize for _, shape, kind in self._stats)
        self._layouts = matrices(num_weights, num_tasks, stats_bytes)
        self._counts = np.zeros(num_weights, np.int32)
        self._sum_of_stats = [np.zeros(shape) for _, shape, _ in self._stats]
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> "BankWriter":
        with contextlib.ExitStack() as lock:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.enter_context(atomic.locked(self._folder))
            existing = _segments(self._folder)
            for name in existing - {_current(self._folder)}:
                shutil.rmtree(self._folder / name)
            self._check_space()
            numbers = [int(name.partition("-")[2]) for name in existing]
            self._place = self._folder / f"segments-{max(numbers, default=0) + 1}"
            self._place.mkdir()
            self._matrices = [_MatrixWriter(self._place, layout) for layout in self._layouts]
            self._lock = lock.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            try:
                for matrix in self._matrices:
                    matrix.close()
                if kind is None:
                    self._finish()
            finally:
                if _current(self._folder) != self._place.name:
                    shutil.rmtree(self._place, ignore_errors=True)

    def _check_space(self) -> None:
        needed = sum(layout.num_rows * (layout.num_bytes + 4) for layout in self._layouts) + self._counts.nbytes
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise UserError(
                f"{self._folder}: the bank takes {needed / 1e6:,.1f} MB, and the disk has {free / 1e6:,.1f} MB left; "
                "give a folder on a different disk as output"
            )

    def write(self, tile: UInt8[np.ndarray, "weights bytes"], weight: int = 0, byte: int = 0) -> None:
        """Write a tile of the bank.

        Args:
            tile: one row for each weight; task i of the tile at bit `i % 8` of byte `i // 8`. Bits beyond the last task
                of the bank are 0. The number of weights is a multiple of 8, except in a tile with the last weight.
            weight: number of the first weight, in the flattened order of `jax.tree.leaves`; a multiple of 8.
            byte: the byte of the rows at which the tile begins.

        Raises:
            ValueError: if the tile does not continue its weights and its tasks, or ends between bytes.
            OSError: if it cannot be written.
        """
        num_weights = len(self._counts)
        if weight % 8 or (len(tile) % 8 and weight + len(tile) != num_weights):
            raise ValueError(f"a tile of weights {weight} to {weight + len(tile)} does not fill whole bytes of masks")
        self._matrices[0].write(tile, weight, byte)
        self._counts[weight : weight + len(tile)] += np.bitwise_count(tile).sum(1, dtype=np.int32)
        first = 8 * byte
        masks = transposed(tile)[: self._num_tasks - first]
        self._matrices[1].write(masks, first, weight // 8)

    def write_stats(self, stats: PyTree[Any], task: int = 0) -> None:
        """Write the batch-norm statistics of some consecutive tasks.

        Args:
            stats: leaves with a leading task axis.
            task: number of the first of these tasks.

        Raises:
            ValueError: if statistics of these tasks have been written.
            OSError: if they cannot be written.
        """
        leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(jax.device_get(stats))]
        if not self._stats:
            return
        for total, leaf in zip(self._sum_of_stats, leaves, strict=True):
            total += leaf.sum(0, dtype=np.float64)
        count = len(leaves[0])
        rows = np.concatenate([leaf.reshape(count, -1).view(np.uint8) for leaf in leaves], axis=1)
        self._matrices[2].write(rows, task, 0)

    def _finish(self) -> None:
        """Check that the bank is complete, and put it in place of the existing one."""
        sums = {}
        for matrix in self._matrices:
            matrix.check_complete()
            sums[matrix.layout.checksums] = _save(self._place / matrix.layout.checksums, matrix.checksums)
        sums[COUNTS] = _save(self._place / COUNTS, self._counts)
        if self._stats:
            means = [(total / self._num_tasks).astype(np.float32).reshape(-1) for total in self._sum_of_stats]
            sums[MEANS] = _save(self._place / MEANS, np.concatenate(means))
        for path in self._place.iterdir():
            atomic.sync(path)
        layouts = {each.name: (each.num_rows, each.num_bytes, each.per_segment) for each in self._layouts}
        plain = self._plain | {
            "stats": [(name, shape, kind.str) for name, shape, kind in self._stats],
            "segments": self._place.name,
            "matrices": layouts,
            "crc32": sums,
        }
        plain = json.loads(json.dumps(plain))
        atomic.sync(self._place)
        atomic.write(self._folder / FILE, json.dumps(plain | {"checksum": checksum(plain)}, indent=1))
        for path in (self._folder / FILE, self._folder):  # before the existing bank is removed
            atomic.sync(path)
        for name in _segments(self._folder) - {self._place.name}:
            shutil.rmtree(self._folder / name, ignore_errors=True)


class _MatrixWriter:
    """Writes the rows of a matrix, each from its first byte to its last one."""

    def __init__(self, folder: Path, layout: Layout):
        self.layout, self._folder = layout, folder
        self.checksums = np.zeros(layout.num_rows, np.uint32)
        self._written = np.zeros(layout.num_rows, np.int64)  # bytes of each row
        self._files: list[BinaryIO] = []
        for name, rows in layout.segments():
            self._files.append((folder / name).open("wb", buffering=0))
            with _naming(folder / name):
                self._files[-1].truncate(rows * layout.num_bytes)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def write(self, tile: UInt8[np.ndarray, "rows bytes"], row: int, byte: int) -> None:
        """Write some consecutive bytes of some consecutive rows.

        Raises:
            ValueError: if the tile does not continue these rows.
        """
        count, width = tile.shape
        rows = slice(row, row + count)
        if row + count > self.layout.num_rows or (self._written[rows] != byte).any():
            raise ValueError(f"{self.layout.name} {row} to {row + count} are not written up to byte {byte}")
        tile = np.ascontiguousarray(tile)
        before = self.checksums[rows].tolist()
        self.checksums[rows] = np.fromiter(map(zlib.crc32, tile, before), np.uint32, count)
        self._written[rows] += width
        step = self.layout.per_segment if width == self.layout.num_bytes else 1
        start = row
        with _naming(self._folder / self.layout.name):
            while start < row + count:
                segment, place = divmod(start, self.layout.per_segment)
                stop = min(row + count, start - place % step + step)
                self._files[segment].seek(place * self.layout.num_bytes + byte)
                _write(self._files[segment], tile[start - row : stop - row])
                start = stop

    def check_complete(self) -> None:
        """Raise `ValueError` if a row is not complete."""
        if (self._written != self.layout.num_bytes).any():
            row = int((self._written != self.layout.num_bytes).argmax())
            raise ValueError(f"row {row} of the {self.layout.name} is not complete")


def transposed(tile: UInt8[np.ndarray, "weights bytes"]) -> UInt8[np.ndarray, "tasks bytes_of_mask"]:
    """Return the bits of each task, of the weights in order, given the bits of each weight."""
    num_weights, width = tile.shape
    masks = np.empty((width, 8, -(-num_weights // 8)), np.uint8)
    for weight in range(0, num_weights, _WEIGHTS):
        for byte in range(0, width, _BYTES):
            part = tile[weight : weight + _WEIGHTS, byte : byte + _BYTES]
            missing = _WEIGHTS - len(part)  # one program for all parts
            eights = np.asarray(_in_eights(np.pad(part, [(0, missing), (0, 0)]) if missing else part))
            place = slice(weight // 8, -(-(weight + len(part)) // 8))
            masks[byte : byte + _BYTES, :, place] = eights[: place.stop - place.start].transpose(2, 1, 0)
    return masks.reshape(8 * width, -1)


@jax.jit
def _in_eights(tile: UInt8[Array, "weights bytes"]) -> UInt8[Array, "bytes_of_mask 8 bytes"]:
    """Return the bits of each task, eight weights in a byte; NumPy brings them into order faster than XLA."""
    eights = tile.reshape(-1, 8, tile.shape[1])
    bits = jnp.arange(8, dtype=jnp.uint8)[None, :, None]
    return sum((((eights[:, place, None] >> bits) & 1) << place for place in range(8)), jnp.uint8(0))


def _write(file: BinaryIO, rows: np.ndarray) -> None:
    """Write an array to a file; a single call may write a part of it only."""
    unwritten = rows.reshape(-1).data
    while unwritten:
        unwritten = unwritten[file.write(unwritten) :]


def _save(path: Path, values: Int[np.ndarray, " values"] | np.ndarray) -> int:
    """Write an array to a file in little-endian order, and return its checksum."""
    content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    with _naming(path):
        path.write_bytes(content)
    return zlib.crc32(content)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name a file in errors of writing to it; those of a full disk name no file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _segments(folder: Path) -> set[str]:
    """Return the names of all folders of segments."""
    return {path.name for path in folder.iterdir() if SEGMENTS.fullmatch(path.name)}


def _current(folder: Path) -> str | None:
    """Return the name of the folder of segments in use; `None` if there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return json.loads((folder / FILE).read_text("utf-8"))["segments"]
    return None
