"""Images on disk, of any size and perhaps damaged, decoded when they are needed: at once, or batch after batch."""

import atexit
import gc
import io
import os
import signal
import time
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from jaxtyping import Int
from PIL import Image

from supsup_jax.data.augmentation import Frames
from supsup_jax.system import backend

# A frame is so much longer than short; most photographs are 4:3 or 3:2.
_LONGEST = 1.5

# What an image may be, whatever its name says. Of what Pillow knows some would run other programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")

# Of JPEGs fewer pixels are decoded where so many times as many as are kept, along a side, are left.
_SPARE = 4

# Images with more pixels are made to exhaust memory.
MOST_PIXELS = 100_000_000

# What workers decode, until it is closed.
_OPEN: WeakSet[Generator[Frames, None, None]] = WeakSet()


@dataclass(frozen=True, eq=False)
class Files:
    """Images that are files.

    Attributes:
        folder: where they are.
        paths: each one's path from there; in an array, 1.3 million take a third of the memory.
    """

    folder: Path
    paths: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> bytes:
        return Path(self.name(row)).read_bytes()

    def name(self, row: int) -> str:
        """The file's path."""
        return os.path.join(self.folder, os.fsdecode(self.paths[row]))


@dataclass(frozen=True, eq=False)
class Records:
    """Images that are records of TFDS.

    Attributes:
        folder: that of the prepared version.
        split: TFDS's name of the split.
        records: what TFDS reads them with, without decoding.
    """

    folder: Path
    split: str
    records: Any

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> bytes:
        return self.records[row]["image"]

    def name(self, row: int) -> str:
        """The record's number, and where it is."""
        return f"record {row} of {self.split} in {self.folder}"


Encoded = Files | Records


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a split, on disk, of any size.

    Attributes:
        source: where they are.
        size: pixels of a side of the square that a network will see.
    """

    source: Encoded
    size: int

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(images, height, width, channels)`, as a network will see them."""
        return len(self), self.size, self.size, 3

    def name(self, row: int) -> str:
        """What an image is called in messages: its path."""
        return self.source.name(row)

    def frames(
        self,
        rows: Int[np.ndarray, " images"],
        cache_size: int,
        progress: Callable[[int, int], None] | None = None,
        places: int | None = None,
    ) -> Frames:
        """Decodes images on all cores.

        Args:
            rows: which ones.
            cache_size: what their shorter sides are resized to.
            progress: called after every image with how many are done, and of how many.
            places: frames to return, black ones at the end; by default as many as there are images.
        """
        _quieten_pillow()
        frames = black_frames(places or len(rows), cache_size)
        with ThreadPoolExecutor(backend.cores()) as threads:
            for done, _ in enumerate(threads.map(partial(self._decode, frames, rows), range(len(rows))), 1):
                if progress:
                    progress(done, len(rows))
        return frames

    def stream(
        self, batches: Int[np.ndarray, "steps batch"], cache_size: int, workers: int
    ) -> Generator[Frames, None, None]:
        """Decodes batches one after another, ahead of their use.

        Args:
            batches: the rows of each.
            cache_size: what the images' shorter sides are resized to.
            workers: processes that decode, which pays with many cores; with 0 of them it is threads of this one.

        Returns:
            The batches in their order. Closed, it ends what goes on in the background.
        """
        _quieten_pillow()
        frames = _decoded_ahead(batches, partial(_batch, self, cache_size), workers)
        if workers:
            _OPEN.add(frames)
        return frames

    def _decode(self, frames: Frames, rows: Int[np.ndarray, " images"], place: int) -> None:
        """Puts an image into its place among frames, which stays black where it cannot be read."""
        short, long = frames.pixels.shape[1:3]
        try:
            image = _decoded(self.source[int(rows[place])], short)
        except Exception:  # reading records and decoding raise many kinds for what is damaged; the caller names it
            return
        shorter, longer = sorted(image.size)
        width = min(short * longer // shorter, long)
        portrait = image.height > image.width
        image = image.resize((short, width) if portrait else (width, short), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        frames.pixels[place, :, :width] = pixels.swapaxes(0, 1) if portrait else pixels
        frames.width[place], frames.aspect[place] = width, longer / shorter
        frames.transposed[place], frames.readable[place] = portrait, True


def _decoded_ahead(
    batches: Int[np.ndarray, "steps batch"], decode: Callable[[Int[np.ndarray, " batch"]], Frames], workers: int
) -> Generator[Frames, None, None]:
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain asks for flags of its own, which no main function of absl has parsed
    threads = 1 if workers else backend.cores()
    loaded = grain.MapDataset.source(list(batches)).map(decode).to_iter_dataset(grain.ReadOptions(threads, threads))
    if workers:
        loaded = loaded.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), _begin_worker)
        atexit.unregister(_close)
        atexit.register(_close)  # after Grain is imported, so before what multiprocessing does at the end
    with closing(iter(loaded)) as iterator:
        # What comes from workers lies in shared memory, which a copy frees at once.
        yield from map(_copied, iterator) if workers else iterator


def _begin_worker(*_: int) -> None:
    _quieten_pillow()
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; what is begun is finished first
        signal.signal(number, signal.SIG_IGN)


def _close() -> None:
    """Ends the workers that are left when Python ends, and frees their memory, while there is what that takes."""
    for frames in list(_OPEN):
        with suppress(ValueError):  # another thread is at it
            frames.close()
    gc.collect()
    time.sleep(0.5)  # a thread of Grain's frees the shared memory, and would be cut off


def _batch(images: Images, cache_size: int, rows: Int[np.ndarray, " images"]) -> Frames:
    """What `Images.frames` returns, in one thread."""
    frames = black_frames(len(rows), cache_size)
    for place in range(len(rows)):
        images._decode(frames, rows, place)
    return frames


def _copied(frames: Frames) -> Frames:
    return Frames(*(np.array(part) for part in frames))


def black_frames(images: int, cache_size: int) -> Frames:
    """Frames of images that could not be read.

    Args:
        images: how many.
        cache_size: their shorter side.
    """
    return Frames(
        np.zeros((images, cache_size, round(_LONGEST * cache_size), 3), np.uint8),
        np.full(images, cache_size, np.int32),
        np.ones(images, np.float32),
        np.zeros(images, np.bool_),
        np.zeros(images, np.bool_),
    )


def _decoded(encoded: bytes, cache_size: int) -> Image.Image:
    """An image in RGB.

    Raises:
        Exception: of many kinds, if it cannot be read.
    """
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        if colours in ("YCbCr", "RGB", "Gray") and int(height) * int(width) <= MOST_PIXELS:
            least = _SPARE * cache_size
            pixels = simplejpeg.decode_jpeg(encoded, "RGB", min_height=least, min_width=least, min_factor=2)
            return Image.fromarray(pixels)
    except ValueError:  # another format or kind of JPEG, or one that is damaged, perhaps only a little
        pass
    with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError("it has too many pixels")
        return image.convert("RGB")


def _quieten_pillow() -> None:
    """Keeps Pillow from warning of images that are odd, or too large, which are dealt with.

    For good: to hide warnings for a while is not possible in threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
