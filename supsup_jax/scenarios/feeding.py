"""The images of a task for devices that share its batches: all on every device, or each batch when it is due."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from supsup_jax.data import Frames, Images, Samples
from supsup_jax.data.images import black_frames
from supsup_jax.data.tasks import Rows
from supsup_jax.system import backend, devices, hosts

_FEW_CORES = 4


class Share(NamedTuple):
    """What each device has of some batches, along a leading axis of devices; without it, what one has.

    Attributes:
        rows: rows of the split, `(devices, batches, share)`.
        places: of the images in a whole batch, `(devices, share)`.
        counts: 1, or 0 for an image that only fills the share, `(devices, batches, share)`.
        split: the samples, where devices have samples of their own.
    """

    rows: Any
    places: Any
    counts: Any
    split: Samples | None = None


class Piece(NamedTuple):
    """Some updates in a row.

    Attributes:
        share: their batches, and perhaps others.
        split: the samples, where all devices have the same.
        first: the number of the update that takes the share's first batch.
        start: the first update of the piece, counted from that one.
        stop: the one after its last.
    """

    share: Share
    split: Samples | None
    first: int
    start: int
    stop: int


class Feed(ABC):
    """Gives training its batches, from some update on."""

    @abstractmethod
    def piece(self, done: int, stop: int) -> Piece:
        """The next updates.

        Args:
            done: updates made.
            stop: the update before which the piece ends at the latest; all are of one epoch.
        """

    @abstractmethod
    def unreadable(self) -> set[int]:
        """The rows of images that could not be read, as far as is known."""

    def close(self) -> None:  # noqa: B027
        """Ends what goes on in the background, if anything does."""


class Resident(Feed):
    """All images of the task lie on every device.

    Args:
        split: the samples of the task.
        rows: the rows of its images in the data set.
        batches: which sample each update takes.
        per_epoch: updates of an epoch.
    """

    def __init__(
        self, split: Samples, rows: Int[np.ndarray, " samples"], batches: Int[np.ndarray, "steps batch"], per_epoch: int
    ):
        self._unreadable = unreadable_rows(split, rows)
        self._split = devices.replicate(split)
        self._batches, self._per_epoch = batches, per_epoch

    def piece(self, done: int, stop: int) -> Piece:
        """The updates up to `stop`."""
        first = done // self._per_epoch * self._per_epoch
        share = _share(self._batches[first : first + self._per_epoch])
        return Piece(share, self._split, first, done - first, stop - first)

    def unreadable(self) -> set[int]:
        """All of them."""
        return self._unreadable


class Streamed(Feed):
    """Images are decoded again and again, ahead of the updates that take them. For what does not fit on the devices.

    Args:
        split: the data set's samples, on disk.
        rows: the rows of the task's images there.
        batches: which of these each update takes, from the first that is to come.
        cache_size: what the images' shorter sides are resized to.
    """

    def __init__(
        self,
        split: Samples,
        rows: Int[np.ndarray, " samples"],
        batches: Int[np.ndarray, "steps batch"],
        cache_size: int,
    ):
        assert isinstance(split.images, Images)
        self._shares = devices.shares(batches.shape[1])
        own = rows[batches[:, self._shares.places]]  # (steps, devices, share)
        self._rows = iter(own)
        self._labels = split.labels
        self._frames = split.images.stream(own.reshape(len(own), -1), cache_size, _workers())
        self._unreadable: set[int] = set()
        self._ahead = self._on_devices()

    def piece(self, done: int, stop: int) -> Piece:
        """One update; meanwhile the images of the next one go to the devices."""
        share, self._ahead = self._ahead, self._on_devices()
        assert share is not None
        return Piece(share, None, done, 0, 1)

    def unreadable(self) -> set[int]:
        """Those that came to this host."""
        return self._unreadable

    def close(self) -> None:
        """Ends decoding."""
        close: Callable[[], None] | None = getattr(self._frames, "close", None)
        if close:
            close()

    def _on_devices(self) -> Share | None:
        """The next batch on its way to the devices; nothing after the last."""
        frames, rows = next(self._frames, None), next(self._rows, None)
        if frames is None or rows is None:
            return None
        self._unreadable |= unreadable_rows(Samples(frames, self._labels), rows.reshape(-1))
        num_devices, share = rows.shape
        frames = jax.tree.map(lambda leaf: leaf.reshape(num_devices, share, *leaf.shape[1:]), frames)
        numbers = np.broadcast_to(np.arange(share), (num_devices, 1, share))
        counts = self._shares.counts[:, None]
        split = Samples(frames, self._labels[rows])
        return devices.spread(Share(numbers, self._shares.places, counts, split))


def load(
    split: Samples,
    rows: Int[np.ndarray, " samples"],
    places: int,
    cache_size: int,
    progress: Callable[[int, int], None],
) -> Samples:
    """Decodes the images of a task, each host its share of them.

    Args:
        split: the data set's samples, on disk.
        rows: the rows of the task's images there.
        places: samples of what is returned: those of the largest task. What is left over is black.
        cache_size: what the images' shorter sides are resized to.
        progress: called with how many images are decoded here, and of how many.
    """
    assert isinstance(split.images, Images)
    if hosts.count() == 1:
        frames = split.images.frames(rows, cache_size, progress, places)
    else:
        parts = split.images.frames(hosts.share_of(rows), cache_size, progress)
        rest = black_frames(places - len(rows), cache_size)
        both = zip(hosts.gathered(parts, len(rows)), rest, strict=True)
        frames = Frames(*map(np.concatenate, both))
    return Samples(frames, np.resize(split.labels[rows], places))


def fits(images: int, cache_size: int) -> bool:
    """Whether every device of every host can have so many images."""
    here = devices.fits(backend.num_bytes(black_frames(images, cache_size)))  # no memory is touched
    return not hosts.any_of(not here)


def batches_of(places: int, batch_size: int, size: int) -> Share:
    """Every sample once, in order, in batches that devices share.

    Args:
        places: samples of the split.
        batch_size: samples of a batch.
        size: how many of them count.
    """
    batches = -(-places // batch_size)
    rows = np.arange(batches * batch_size).reshape(batches, batch_size)
    share = _share(rows)
    return share._replace(rows=np.minimum(share.rows, places - 1), counts=share.counts * (share.rows < size))


def local_rows(task: Rows) -> Rows:
    """The task's description where the split holds its samples alone, in order."""
    return task._replace(
        train=np.arange(len(task.train), dtype=np.int32), test=np.arange(len(task.test), dtype=np.int32)
    )


def unreadable_rows(split: Samples, rows: Int[np.ndarray, " samples"]) -> set[int]:
    """Which of some rows could not be read, given their samples."""
    assert isinstance(split.images, Frames)
    return set(rows[~np.asarray(split.images.readable)[: len(rows)]].tolist())


def _share(batches: Int[np.ndarray, "steps batch"]) -> Share:
    shares = devices.shares(batches.shape[1])
    rows = np.moveaxis(batches[:, shares.places], 0, 1)
    counts = np.broadcast_to(shares.counts[:, None], rows.shape)
    return Share(rows.astype(np.int32), shares.places.astype(np.int32), np.ascontiguousarray(counts))


def _workers() -> int:
    """Processes that decode: with few cores threads of this one are faster."""
    return backend.cores() if backend.cores() > _FEW_CORES else 0
