"""Helpers for readers of published data sets: folders prepared by TFDS, downloads and checksums."""

import hashlib
import logging
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from supsup_jax.errors import UserError, reason
from supsup_jax.system import extras

RawSamples = tuple[UInt8[np.ndarray, "_ height width channels"], UInt8[np.ndarray, " _"]]
"""Images and their labels."""


def find_prepared(folder: Path, name: str) -> Path | None:
    """Return the folder of the newest version of a data set that TFDS prepared, or `None`.

    It is searched for in the user's data folder and in its folder `name`.

    Args:
        folder: the user's data folder.
        name: name of the data set in TFDS.
    """
    for place in (name, "."):
        versions = [path.parent for path in (folder / place).glob("*/dataset_info.json")]
        if versions:
            return max(versions, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])
    return None


@contextmanager
def prepared(folder: Path, name: str, instead: str) -> Iterator[Any]:
    """Open the TFDS builder of a prepared data set, and turn any exception within the context into a `UserError`.

    Args:
        folder: the folder of a version, as `find_prepared` returns it.
        name: name of the data set in TFDS.
        instead: alternative for the user, for messages.

    Raises:
        UserError: if the folder cannot be read, or holds a different data set.
    """
    tfds = extras.require("tfds", f"{folder}, prepared by TFDS,")

    try:
        builder: Any = tfds.builder_from_directory(folder)
        if builder.name != name:
            raise ValueError(f"it is {builder.name}")
        if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:  # others fail, or return too few records
            raise ValueError(f"its format is {builder.info.file_format.value}")
        yield builder
    except Exception as error:  # TFDS and its libraries raise many types of exceptions for a damaged file
        raise UserError(
            f"{folder} cannot be read as {name} prepared by TFDS ({reason(error)}); expected "
            f"file_format='array_record': prepare it again in this format, or {instead}"
        ) from error


def read_prepared(
    folder: Path, name: str, sizes: dict[str, int], image_shape: tuple[int, ...], instead: str
) -> tuple[RawSamples, RawSamples]:
    """Return the training and the test samples of a data set that TFDS prepared.

    Args:
        folder: the folder of a version, as `find_prepared` returns it.
        name: name of the data set in TFDS.
        sizes: number of samples of `"train"` and `"test"`.
        image_shape: shape `(height, width, channels)` of an image.
        instead: alternative for the user, for messages.

    Raises:
        UserError: if the folder cannot be read, or holds a different data set.
    """
    arrays = []
    with prepared(folder, name, instead) as builder:
        for split, size in sizes.items():
            source = builder.as_data_source(split)
            if len(source) != size:
                raise ValueError(f"it has {len(source)} samples for {split}, not {size}")
            samples = [source[index] for index in range(size)]
            images = np.stack([sample["image"] for sample in samples])
            if images.shape[1:] != image_shape:
                raise ValueError(f"its images are {' × '.join(map(str, images.shape[1:]))}")
            arrays.append((images, np.asarray([sample["label"] for sample in samples], np.uint8)))
    return arrays[0], arrays[1]


def join(parts: Sequence[RawSamples]) -> RawSamples:
    """Concatenate the samples of several files."""
    if len(parts) == 1:
        return parts[0]
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def download(title: str, url: str, hashes: dict[str, str], folder: Path) -> None:
    """Download files into a folder, each completely or not at all.

    Args:
        title: name of the data set, for messages.
        url: URL of the folder that holds the files, ending in a slash.
        hashes: checksum of each file by its name: "sha256:" or "md5:", followed by the hexadecimal digits.
        folder: destination.

    Raises:
        UserError: if the files cannot be downloaded.
    """

    def failed(why: str) -> UserError:
        return UserError(
            f"{folder} lacks {', '.join(hashes)}, {why}; put the missing files there, from {url}, or name the folder "
            f"that has {title} with --data"
        )

    if not _reachable(url):
        raise failed(f"and {urllib.parse.urlsplit(url).hostname} cannot be reached")
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    downloader: Any = pooch.HTTPDownloader(timeout=(2, 10))  # seconds, to connect and to read
    print(f"downloading {title} to {folder}")
    for name, known in hashes.items():
        try:
            pooch.retrieve(f"{url}{name}", known, name, folder, downloader=downloader)
        except (OSError, ValueError) as error:  # OSError: also network errors; ValueError: checksum
            raise failed(f"which cannot be downloaded ({reason(error)})") from error


def has_hash(path: Path, known: str) -> bool:
    """Return whether a file has the given checksum, in the form that `download` takes.

    Raises:
        OSError: if the file cannot be read.
    """
    algorithm, _, digits = known.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest() == digits


def _reachable(url: str, seconds: float = 1.5) -> bool:
    """Return whether a host answers within a time that includes name resolution; with a proxy, assume that it does."""
    if urllib.request.getproxies():
        return True
    parts = urllib.parse.urlsplit(url)
    answered = threading.Event()

    def knock() -> None:
        try:
            socket.create_connection(
                (parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)), timeout=seconds
            ).close()
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()
