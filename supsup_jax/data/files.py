"""What the readers of published data sets share: folders that TFDS prepared, and downloads."""

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
    """The folder of the newest version of a data set that TFDS prepared below the user's folder, or in it.

    Args:
        folder: the user's data folder.
        name: TFDS's name of the data set.
    """
    for place in (name, "."):
        versions = [path.parent for path in (folder / place).glob("*/dataset_info.json")]
        if versions:
            return max(versions, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])
    return None


@contextmanager
def prepared(folder: Path, name: str, instead: str) -> Iterator[Any]:
    """TFDS's builder of a data set that it prepared; what goes wrong within is an error of the user's.

    Args:
        folder: the folder of a version, as `find_prepared` returns it.
        name: TFDS's name of the data set.
        instead: what else the user can do, for messages.

    Raises:
        UserError: if it cannot be read, or is not the data set.
    """
    tfds = extras.require("tfds", f"{folder}, prepared by TFDS,")

    try:
        builder: Any = tfds.builder_from_directory(folder)
        if builder.name != name:
            raise ValueError(f"it is {builder.name}")
        if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:  # others fail, or read too little
            raise ValueError(f"its format is {builder.info.file_format.value}")
        yield builder
    except Exception as error:  # TFDS and the libraries below it raise many kinds for a damaged file
        raise UserError(
            f"{folder} cannot be read as {name} prepared by TFDS ({reason(error)}); expected "
            f"file_format='array_record': prepare it again so, or {instead}"
        ) from error


def read_prepared(
    folder: Path, name: str, sizes: dict[str, int], image_shape: tuple[int, ...], instead: str
) -> tuple[RawSamples, RawSamples]:
    """The training and the test samples of a data set that TFDS prepared.

    Args:
        folder: the folder of a version, as `find_prepared` returns it.
        name: TFDS's name of the data set.
        sizes: how many samples `"train"` and `"test"` have.
        image_shape: `(height, width, channels)` of an image.
        instead: what else the user can do, for messages.

    Raises:
        UserError: if it cannot be read, or is not the data set.
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
    """The samples of several files, one after another."""
    if len(parts) == 1:
        return parts[0]
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def download(title: str, url: str, hashes: dict[str, str], folder: Path) -> None:
    """Fetches files into a folder, each whole or not at all.

    Args:
        title: the data set, for messages.
        url: where the files are, ending in a slash.
        hashes: the checksum of each file by its name: "sha256:" or "md5:", and the hexadecimal digits.
        folder: where to put them.

    Raises:
        UserError: if that is not possible.
    """

    def failed(why: str) -> UserError:
        return UserError(
            f"{folder} lacks {', '.join(hashes)}, {why}; put what is missing there, from {url}, or name the folder "
            f"that has {title} with --data"
        )

    if not _reachable(url):
        raise failed(f"and {urllib.parse.urlsplit(url).hostname} cannot be reached")
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    downloader: Any = pooch.HTTPDownloader(timeout=(2, 10))  # seconds to connect, and between two answers
    print(f"downloading {title} to {folder}")
    for name, known in hashes.items():
        try:
            pooch.retrieve(f"{url}{name}", known, name, folder, downloader=downloader)
        except (OSError, ValueError) as error:  # the network's errors are OSErrors too; ValueError: another checksum
            raise failed(f"which cannot be downloaded ({reason(error)})") from error


def has_hash(path: Path, known: str) -> bool:
    """Whether a file has a checksum, given as `download` takes it.

    Raises:
        OSError: if it cannot be read.
    """
    algorithm, _, digits = known.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest() == digits


def _reachable(url: str, seconds: float = 1.5) -> bool:
    """Whether a host answers; a name server that does not answer is not waited for either. A proxy is trusted."""
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
