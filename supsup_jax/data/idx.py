"""Reader of data sets published as four idx files: MNIST and data sets with the same layout."""

import gzip
import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from supsup_jax.data import files
from supsup_jax.errors import UserError

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"


@dataclass(frozen=True)
class IdxFile:
    """Shape and checksums of a published file.

    Attributes:
        shape: shape of the array in the file.
        sha256: SHA-256 of the unpacked content; empty if none is published.
        archive: checksum of the gzipped file, as `files.download` takes it; empty if none is published.
    """

    shape: tuple[int, ...]
    sha256: str = ""
    archive: str = ""


@dataclass(frozen=True)
class IdxDataset:
    """Locations and files of a published data set.

    Attributes:
        title: name in messages.
        url: URL of the folder that holds the files.
        places: folders that may hold the files, below the user's data folder; downloads go to the first.
        members: training images and labels, test images and labels, by file name without `.gz`; see `find`.
        prepared: name in TFDS.
        zipped: whether the files come in an archive that has to be unpacked by hand.
    """

    title: str
    url: str
    places: tuple[str, ...]
    members: Mapping[str, IdxFile]
    prepared: str
    zipped: bool = False

    def is_present(self, folder: Path) -> bool:
        """Return whether one folder holds all files, or TFDS prepared the data set."""
        has_files = any(all(find(folder / place, name) for name in self.members) for place in self.places)
        return has_files or files.find_prepared(folder, self.prepared) is not None

    def read(self, folder: Path) -> tuple[files.RawSamples, files.RawSamples]:
        """Return the training and the test samples, each as images `(samples, height, width, 1)` and labels, uint8.

        Args:
            folder: the user's data folder. Missing files are downloaded into it.

        Raises:
            UserError: if a file is missing and cannot be downloaded, or is damaged.
        """
        for place in self.places:
            if any(find(folder / place, name) for name in self.members):
                return self._read_files(folder / place)
        if prepared := files.find_prepared(folder, self.prepared):
            shapes = [file.shape for file in self.members.values()]
            sizes = {"train": shapes[1][0], "test": shapes[3][0]}
            instead = f"put the files of {self.url} into {folder / self.places[0]}"
            return files.read_prepared(prepared, self.prepared, sizes, (*shapes[0][1:], 1), instead)
        return self._read_files(folder / self.places[0])

    def _read_files(self, folder: Path) -> tuple[files.RawSamples, files.RawSamples]:
        missing = {f"{name}.gz": file.archive for name, file in self.members.items() if not find(folder, name)}
        if missing and self.zipped:
            raise UserError(
                f"{folder} lacks {', '.join(missing)}; unpack them there from {self.url}, or name the folder that has "
                f"{self.title} with --data"
            )
        if missing:
            files.download(self.title, self.url, missing, folder)
        train_images, train_labels, test_images, test_labels = (
            self._read(find(folder, name) or folder / name, name) for name in self.members
        )
        return (train_images[..., None], train_labels), (test_images[..., None], test_labels)

    def _read(self, path: Path, name: str) -> UInt8[np.ndarray, "..."]:
        """Read an idx file: two zeros, the type (8: uint8), the rank, each dimension in four bytes, then the data.

        At most one byte more than expected is read, so that a larger file cannot exhaust memory.
        """
        file, url = self.members[name], self.url if self.zipped else f"{self.url}{name}.gz"
        shape = file.shape
        header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        expected = len(header) + int(np.prod(shape))
        changed = f"{path} is not the published file of {self.title} (checksum mismatch): replace it, from {url}"
        try:
            if path.suffix == ".gz" and file.archive and not file.sha256 and not files.has_hash(path, file.archive):
                raise UserError(changed)
            with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as opened:
                content = opened.read(expected + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(
                f"{path} cannot be read ({error}); expected {self.title}'s idx file, gzipped or not: replace it, from "
                f"{url}"
            ) from error
        if not content.startswith(header) or len(content) != expected:
            problem = "of the wrong size" if content.startswith(header) else "with the wrong header"
            size = f"{len(content)} bytes" if len(content) <= expected else "more bytes"
            raise UserError(
                f"{path} is {problem} ({size}); expected an idx file of {' × '.join(map(str, shape))} bytes "
                f"({expected} in all): replace it, from {url}"
            )
        if file.sha256 and hashlib.sha256(content).hexdigest() != file.sha256:
            raise UserError(changed)
        return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def find(folder: Path, name: str) -> Path | None:
    """Return the path of an idx file in a folder, unpacked or gzipped, by its published name or Kaggle's; else `None`.

    Kaggle writes a dot in place of the second hyphen, `train-images.idx3-ubyte`, as the gzip files of MNIST name their
    contents. Its archives, and some programs that unpack, put each file into a folder of the same name.
    """
    names = name, re.sub(r"-(idx\d-ubyte)$", r".\1", name)
    files_ = [f"{each}{suffix}" for suffix in ("", ".gz") for each in names]
    paths = [folder / file for file in files_] + [folder / within / file for within in files_ for file in files_]
    return next((path for path in paths if path.is_file()), None)
