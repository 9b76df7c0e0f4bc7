"""Reader of CIFAR-10 and CIFAR-100 from common folder layouts, with download.

It looks in this order for torchvision's layout (`cifar100/cifar-100-python`, also without `cifar100`), the published
archive `cifar-100-python.tar.gz` in the same places, which is read without unpacking, and a folder prepared by TFDS
(`cifar100/3.0.2`). If none is found, the archive is downloaded to `cifar100`. CIFAR-10 has corresponding names.
"""

import gzip
import hashlib
import pickle
import re
import struct
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from supsup_jax.data import files
from supsup_jax.errors import UserError, reason

URL = "https://www.cs.toronto.edu/~kriz/"

# An image has 3,072 bytes, a name and two labels. Larger files are not read.
_BYTES_PER_IMAGE = 4096
_EXTRA_BYTES = 1 << 20

# One-byte integers in a pickle, in batches between "(" and "e".
_LABELS = re.compile(rb"(?:\((?:K.){1,1000}e)+", re.DOTALL)
_LABEL = re.compile(rb"K(.)|[(e]", re.DOTALL)


@dataclass(frozen=True)
class Cifar:
    """Names, sizes and checksums of a published data set.

    Attributes:
        title: name in messages.
        name: name in TFDS, and of the folder for downloads.
        folder: folder that the archive unpacks to.
        archive: file name of the archive.
        archive_hash: checksum of the archive, as `files.download` takes it.
        url: URL of the folder that holds the archive.
        members: file names of each split, in the order of their samples.
        sizes: number of samples of each split; the files of a split have equal sizes.
        labels_key: key of the labels in a file.
        classes: number of classes.
        known: for each file, the accepted checksums: MD5 of the file, and `digest` of its content.
    """

    title: str
    name: str
    folder: str
    archive: str
    archive_hash: str
    url: str
    members: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]
    labels_key: str
    classes: int
    known: Mapping[str, tuple[str, ...]]

    def is_present(self, folder: Path) -> bool:
        """Return whether the data set is complete in the user's data folder."""
        return (
            any(self._has_files(place) or (place / self.archive).is_file() for place in self._places(folder))
            or files.find_prepared(folder, self.name) is not None
        )

    def read(self, folder: Path) -> tuple[files.RawSamples, files.RawSamples]:
        """Return the training and the test samples, each as images `(samples, 32, 32, 3)` and labels, uint8.

        Args:
            folder: the user's data folder. Missing files are downloaded into it.

        Raises:
            UserError: if a file is missing and cannot be downloaded, or is damaged.
        """
        for place in self._places(folder):
            if self._has_files(place):
                return self._read_folder(place / self.folder)
        for place in self._places(folder):
            if (archive := place / self.archive).is_file():
                return self._read_archive(archive)
        archive = self._places(folder)[0] / self.archive
        if prepared := files.find_prepared(folder, self.name):
            instead = f"put {self.url}{self.archive} into {archive.parent}"
            return files.read_prepared(prepared, self.name, dict(self.sizes), (32, 32, 3), instead)
        files.download(self.title, self.url, {self.archive: self.archive_hash}, archive.parent)
        return self._read_archive(archive)

    def _places(self, folder: Path) -> tuple[Path, Path]:
        return folder / self.name, folder

    def _has_files(self, place: Path) -> bool:
        return all((place / self.folder / name).is_file() for names in self.members.values() for name in names)

    def _read_folder(self, folder: Path) -> tuple[files.RawSamples, files.RawSamples]:
        found = {}
        for split, names in self.members.items():
            for name in names:
                with self._naming(folder / name), (folder / name).open("rb") as file:
                    found[name] = self._samples(_Bounded(file, self._most(split)).read(), name, split)
        return self._joined(found)

    def _read_archive(self, path: Path) -> tuple[files.RawSamples, files.RawSamples]:
        """Read all files in one pass over the archive. No file is written."""
        found = {}
        splits = {f"{self.folder}/{name}": (name, split) for split, names in self.members.items() for name in names}
        most = sum(self._most(split) for _, split in splits.values())
        with self._naming(path), gzip.open(path) as unpacked:
            bounded: Any = _Bounded(unpacked, most)
            with tarfile.open(fileobj=bounded, mode="r|") as archive:
                for member in archive:
                    if member.name in splits:
                        name, split = splits[member.name]
                        file = archive.extractfile(member) if member.isreg() else None
                        if file is None:
                            raise ValueError(f"{member.name} is not a regular file")
                        found[name] = self._samples(_Bounded(file, self._most(split)).read(), name, split)
            if missing := [member for member, (name, _) in splits.items() if name not in found]:
                raise ValueError(f"it has no {' and no '.join(missing)}")
        return self._joined(found)

    def _joined(self, found: Mapping[str, files.RawSamples]) -> tuple[files.RawSamples, files.RawSamples]:
        train, test = (files.join([found[name] for name in self.members[split]]) for split in ("train", "test"))
        return train, test

    def _size(self, split: str) -> int:
        return self.sizes[split] // len(self.members[split])

    def _most(self, split: str) -> int:
        return _EXTRA_BYTES + _BYTES_PER_IMAGE * self._size(split)

    @contextmanager
    def _naming(self, path: Path) -> Iterator[None]:
        """Turn any exception from reading a damaged file into a `UserError` with the file's path."""
        try:
            yield
        except Exception as error:
            sizes = " and ".join(f"{size:,} {split}" for split, size in self.sizes.items())
            raise UserError(
                f"{path} cannot be read as {self.title} ({reason(error)}); expected {sizes} images as published: "
                f"replace it, from {self.url}{self.archive}, or read other copies with ImageFolder or NPZ"
            ) from error

    def _samples(self, pickled: bytes, name: str, split: str) -> files.RawSamples:
        """Return the samples of a published file, or of a copy with the published images and labels.

        Raises:
            Exception: of various types, if the file is neither.
        """
        size, known = self._size(split), self.known[name]
        is_published = hashlib.md5(pickled, usedforsecurity=False).hexdigest() in known
        if is_published:  # These bytes are safe to unpickle: text and arrays. Python 2 wrote them.
            content = pickle.loads(pickled, encoding="bytes")
            pixels, labels = content[b"data"], content[self.labels_key.encode()]
        else:
            pixels, labels = _found(pickled, size, self.labels_key)
        # A row holds the red, the green and the blue channel, in this order.
        images = np.ascontiguousarray(pixels.reshape(size, 3, 32, 32).transpose(0, 2, 3, 1))
        if not is_published and (len(labels) != size or digest(images, labels) not in known):
            raise ValueError("the checksum of its images and labels is not that of the published ones")
        return images, np.asarray(labels, np.uint8)


def _found(pickled: bytes, size: int, labels_key: str) -> tuple[UInt8[np.ndarray, " pixels"], list[int]]:
    """Find the pixels and the labels in a pickle of unknown origin, without unpickling it.

    The caller has to check the result by a checksum.

    Args:
        pickled: the file.
        size: the number of images.
        labels_key: the key of the list of labels.

    Raises:
        ValueError: if the pickle does not hold them as one byte string and one list of small integers.
    """
    count = size * 3 * 32 * 32
    start_of_bytes = (
        b"[TB]" + re.escape(struct.pack("<I", count)) + b"|[\x8e\x96]" + re.escape(struct.pack("<Q", count))
    )
    pixels, key = re.search(start_of_bytes, pickled), pickled.find(labels_key.encode())
    labels = _LABELS.search(pickled, key, key + 4 * size + 100)
    if pixels is None or labels is None or pixels.end() + count > len(pickled):
        raise ValueError("its bytes are not the published ones, and its images and labels cannot be found")
    return np.frombuffer(pickled, np.uint8, count, pixels.end()), list(b"".join(_LABEL.findall(labels[0])))


class _Bounded:
    """Reader that stops at a limit, so that damaged or malicious files cannot exhaust memory."""

    def __init__(self, file: Any, most: int):
        self._file, self._remaining = file, most

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes, or to the end.

        Raises:
            ValueError: if the file is longer than the limit.
        """
        content = self._file.read(self._remaining + 1 if size < 0 else min(size, self._remaining + 1))
        self._remaining -= len(content)
        if self._remaining < 0:
            raise ValueError("it is much larger")
        return content


def digest(images: UInt8[np.ndarray, "_ height width channels"], labels: list[int]) -> str:
    """Return the SHA-256 of images with their labels, independent of their order and of the file format."""
    each = (
        hashlib.sha256(image.tobytes() + bytes([label])).digest() for image, label in zip(images, labels, strict=True)
    )
    return hashlib.sha256(b"".join(sorted(each))).hexdigest()
