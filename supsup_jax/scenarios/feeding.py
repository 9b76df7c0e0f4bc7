"""Images of a task for devices that share its batches: all images on every device, or one batch at a time."""

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
    """Share of each device in some batches, along a leading device axis; without this axis, the share of one device.

    Attributes:
        rows: rows of the split, `(devices, batches, share)`.
        places: positions of the images in the whole batch, `(devices, share)`.
        counts: 1, or 0 for images that only pad the share, `(devices, batches, share)`.
        split: the samples, if each device has different samples.
    """

    rows: Any
    places: Any
    counts: Any
    split: Samples | None = None


class Piece(NamedTuple):
    """Some consecutive steps.

    Attributes:
        share: batches of these steps, and possibly of other steps.
        split: the samples, if all devices have the same samples.
        first: number of the step that uses the first batch of `share`.
        start: first step of the piece, relative to `first`.
        stop: end of the piece, relative to `first`; exclusive.
    """

    share: Share
    split: Samples | None
    first: int
    start: int
    stop: int


class Feed(ABC):
    """Source of the batches of a task, starting at some step."""

    @abstractmethod
    def piece(self, done: int, stop: int) -> Piece:
        """Return the next steps.

        Args:
            done: number of steps done.
            stop: maximum end of the piece, exclusive; all steps belong to one epoch.
        """

    @abstractmethod
    def unreadable(self) -> set[int]:
        """Return the rows of images known to be unreadable."""

    def close(self) -> None:  # noqa: B027
        """Stop background work; by default there is none."""


class Resident(Feed):
    """Feed that keeps all images of the task on every device.

    Args:
        split: samples of the task.
        rows: rows of these samples in the data set.
        batches: samples used in each step.
        per_epoch: steps per epoch.
    """

    def __init__(
        self, split: Samples, rows: Int[np.ndarray, " samples"], batches: Int[np.ndarray, "steps batch"], per_epoch: int
    ):
        self._unreadable = unreadable_rows(split, rows)
        self._split = devices.replicate(split)
        self._batches, self._per_epoch = batches, per_epoch

    def piece(self, done: int, stop: int) -> Piece:
        """Return the steps before `stop`."""
        first = done // self._per_epoch * self._per_epoch
        share = _share(self._batches[first : first + self._per_epoch])
        return Piece(share, self._split, first, done - first, stop - first)

    def unreadable(self) -> set[int]:
        """Return the rows of all unreadable images of the task."""
        return self._unreadable


class Streamed(Feed):
    """Feed that decodes images for every batch, in advance. For tasks that do not fit on the devices.

    Args:
        split: samples of the data set, on disk.
        rows: rows of the task's images in the data set.
        batches: images used in each remaining step, as indices into `rows`.
        cache_size: shorter side, in pixels, to which images are resized.
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
        rows = rows[batches[:, self._shares.places]]  # (steps, devices, share)
        self._rows = iter(rows)
        self._labels = split.labels
        self._frames = split.images.stream(rows.reshape(len(rows), -1), cache_size, _workers())
        self._unreadable: set[int] = set()
        self._ahead = self._on_devices()

    def piece(self, done: int, stop: int) -> Piece:
        """Return one step, and start moving the images of the next step to the devices."""
        share, self._ahead = self._ahead, self._on_devices()
        assert share is not None
        return Piece(share, None, done, 0, 1)

    def unreadable(self) -> set[int]:
        """Return the rows of unreadable images that this host has decoded so far."""
        return self._unreadable

    def close(self) -> None:
        """Stop decoding images."""
        close: Callable[[], None] | None = getattr(self._frames, "close", None)
        if close:
            close()

    def _on_devices(self) -> Share | None:
        """Start moving the next batch to the devices; `None` after the last batch."""
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
    """Decode the images of a task; each host decodes its share.

    Args:
        split: samples of the data set, on disk.
        rows: rows of the task's images in the data set.
        places: number of samples to return, the size of the largest task; the remaining images are black.
        cache_size: shorter side, in pixels, to which images are resized.
        progress: called with the number of images decoded on this host, and the number to decode.
    """
    assert isinstance(split.images, Images)
    if hosts.count() == 1:
        frames = split.images.frames(rows, cache_size, progress, places)
    else:
        parts = split.images.frames(hosts.local_share(rows), cache_size, progress)
        padding = black_frames(places - len(rows), cache_size)
        frames = Frames(*map(np.concatenate, zip(hosts.gather(parts, len(rows)), padding, strict=True)))
    return Samples(frames, np.resize(split.labels[rows], places))


def fits(images: int, cache_size: int) -> bool:
    """Return whether every device of every host has memory for this number of images."""
    fits_on_host = devices.fits(backend.num_bytes(black_frames(images, cache_size)))  # allocates no memory
    return not hosts.any_process(not fits_on_host)


def batches_of(places: int, batch_size: int, size: int) -> Share:
    """Return batches of all samples in order, shared by the devices.

    Args:
        places: number of samples in the split, including padding.
        batch_size: samples per batch.
        size: number of samples without padding.
    """
    batches = -(-places // batch_size)
    rows = np.arange(batches * batch_size).reshape(batches, batch_size)
    share = _share(rows)
    return share._replace(rows=np.minimum(share.rows, places - 1), counts=share.counts * (share.rows < size))


def local_rows(task: Rows) -> Rows:
    """Return the description of a task for a split that contains only the task's samples, in order."""
    return task._replace(
        train=np.arange(len(task.train), dtype=np.int32), test=np.arange(len(task.test), dtype=np.int32)
    )


def unreadable_rows(split: Samples, rows: Int[np.ndarray, " samples"]) -> set[int]:
    """Return the rows whose images are unreadable, given the samples of these rows."""
    assert isinstance(split.images, Frames)
    return set(rows[~np.asarray(split.images.readable)[: len(rows)]].tolist())


def _share(batches: Int[np.ndarray, "steps batch"]) -> Share:
    shares = devices.shares(batches.shape[1])
    rows = np.moveaxis(batches[:, shares.places], 0, 1)
    counts = np.broadcast_to(shares.counts[:, None], rows.shape)
    return Share(rows.astype(np.int32), shares.places.astype(np.int32), np.ascontiguousarray(counts))


def _workers() -> int:
    """Return the number of decoding processes; with few cores, threads of this process are faster."""
    return backend.cores() if backend.cores() > _FEW_CORES else 0
