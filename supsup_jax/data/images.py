"""Images on disk, of any size and possibly damaged, decoded on demand: all at once or batch by batch."""

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

# Ratio of a frame's sides. Most photographs are 4:3 or 3:2.
_LONGEST = 1.5

# Accepted formats, whatever the file's name. Some other formats make Pillow run external programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")

# JPEGs are decoded at a reduced size if each side keeps at least this many times the pixels that are needed.
_SPARE = 4

# Larger images are rejected, because they may be crafted to exhaust memory.
MOST_PIXELS = 100_000_000

# Generators whose worker processes run, until they are closed.
_OPEN: WeakSet[Generator[Frames, None, None]] = WeakSet()


@dataclass(frozen=True, eq=False)
class Files:
    """Images stored as files.

    Attributes:
        folder: folder of the files.
        paths: path of each file relative to the folder; as an array, 1.3 million paths take a third of a list's memory.
    """

    folder: Path
    paths: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> bytes:
        return Path(self.name(row)).read_bytes()

    def name(self, row: int) -> str:
        """Return the path of a file."""
        return os.path.join(self.folder, os.fsdecode(self.paths[row]))


@dataclass(frozen=True, eq=False)
class Records:
    """Images stored as TFDS records.

    Attributes:
        folder: folder of the prepared version.
        split: name of the split in TFDS.
        records: TFDS data source that does not decode images.
    """

    folder: Path
    split: str
    records: Any

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> bytes:
        return self.records[row]["image"]

    def name(self, row: int) -> str:
        """Return the number of a record, with its split and folder."""
        return f"record {row} of {self.split} in {self.folder}"


Encoded = Files | Records


@dataclass(frozen=True, eq=False)
class Images:
    """Images of a split, on disk, of any size.

    Attributes:
        source: the encoded images.
        size: side of the square images that the network sees, in pixels.
    """

    source: Encoded
    size: int

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape `(images, height, width, channels)`, as the network sees them."""
        return len(self), self.size, self.size, 3

    def name(self, row: int) -> str:
        """Return the name of an image for messages: its path."""
        return self.source.name(row)

    def frames(
        self,
        rows: Int[np.ndarray, " images"],
        cache_size: int,
        progress: Callable[[int, int], None] | None = None,
        places: int | None = None,
    ) -> Frames:
        """Decode images on all cores.

        Args:
            rows: rows of the images.
            cache_size: length to which the images' shorter sides are resized, in pixels.
            progress: function that is called after each image with the number of decoded images and the total.
            places: number of frames to return, padded with black ones; by default the number of images.
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
        """Decode batches one after another, ahead of their use.

        Args:
            batches: rows of the images of each batch.
            cache_size: length to which the images' shorter sides are resized, in pixels.
            workers: number of processes that decode, which pays off with many cores; 0 decodes in threads of this
                process.

        Returns:
            A generator of the batches in their order. Closing it stops the decoding in the background.
        """
        _quieten_pillow()
        frames = _decoded_ahead(batches, partial(_batch, self, cache_size), workers)
        if workers:
            _OPEN.add(frames)
        return frames

    def _decode(self, frames: Frames, rows: Int[np.ndarray, " images"], place: int) -> None:
        """Decode an image into its place among the frames; the frame stays black if the image cannot be read."""
        short, long = frames.pixels.shape[1:3]
        try:
            image = _decoded(self.source[int(rows[place])], short)
        except Exception:  # many types of exceptions, for damaged images; the caller reports them
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

    flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, which no absl main function has parsed
    threads = 1 if workers else backend.cores()
    loaded = grain.MapDataset.source(list(batches)).map(decode).to_iter_dataset(grain.ReadOptions(threads, threads))
    if workers:
        loaded = loaded.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), _begin_worker)
        atexit.unregister(_close)
        atexit.register(_close)  # after Grain's import, to run before multiprocessing's exit handlers
    with closing(iter(loaded)) as iterator:
        # Batches from workers are in shared memory, which copying frees at once.
        yield from map(_copied, iterator) if workers else iterator


def _begin_worker(*_: int) -> None:
    _quieten_pillow()
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the process group; finish the current batch first
        signal.signal(number, signal.SIG_IGN)


def _close() -> None:
    """Stop remaining workers before Python exits, while freeing their memory is still possible."""
    for frames in list(_OPEN):
        with suppress(ValueError):  # another thread uses it
            frames.close()
    gc.collect()
    time.sleep(0.5)  # a thread of Grain needs time to free the shared memory


def _batch(images: Images, cache_size: int, rows: Int[np.ndarray, " images"]) -> Frames:
    """Decode images as `Images.frames` does, in one thread."""
    frames = black_frames(len(rows), cache_size)
    for place in range(len(rows)):
        images._decode(frames, rows, place)
    return frames


def _copied(frames: Frames) -> Frames:
    return Frames(*(np.array(part) for part in frames))


def black_frames(images: int, cache_size: int) -> Frames:
    """Return black frames, marked as not readable.

    Args:
        images: number of frames.
        cache_size: shorter side of a frame, in pixels.
    """
    return Frames(
        np.zeros((images, cache_size, round(_LONGEST * cache_size), 3), np.uint8),
        np.full(images, cache_size, np.int32),
        np.ones(images, np.float32),
        np.zeros(images, np.bool_),
        np.zeros(images, np.bool_),
    )


def _decoded(encoded: bytes, cache_size: int) -> Image.Image:
    """Decode an image to RGB.

    Raises:
        Exception: of various types, if it cannot be read.
    """
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        if colours in ("YCbCr", "RGB", "Gray") and int(height) * int(width) <= MOST_PIXELS:
            least = _SPARE * cache_size
            pixels = simplejpeg.decode_jpeg(encoded, "RGB", min_height=least, min_width=least, min_factor=2)
            return Image.fromarray(pixels)
    except ValueError:  # not a JPEG, an unsupported JPEG, or a damaged one that Pillow may read
        pass
    with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError("it has too many pixels")
        return image.convert("RGB")


def _quieten_pillow() -> None:
    """Silence Pillow's warnings about unusual or too large images, which this module handles.

    The filter stays in place, because warnings cannot be silenced temporarily in threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
