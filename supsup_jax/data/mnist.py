"""MNIST from the folders that people have, else downloaded.

In this order: torchvision's layout (`MNIST/raw`, also below `mnist`), the files themselves, gzipped or not, and a
folder that TFDS prepared (`mnist/3.0.1`). What is downloaded goes to `mnist/MNIST/raw`.
"""

import gzip
import logging
import socket
import threading
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from supsup_jax.errors import UserError

Arrays = tuple[UInt8[np.ndarray, "_ 28 28"], UInt8[np.ndarray, " _"]]

_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_HOST = "storage.googleapis.com"

# The shape that each published file has, and the SHA-256 of its gzip as TFDS registers it.
_FILES = {
    "train-images-idx3-ubyte": (
        (60000, 28, 28),
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train-labels-idx1-ubyte": (
        (60000,),
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "t10k-images-idx3-ubyte": (
        (10000, 28, 28),
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "t10k-labels-idx1-ubyte": (
        (10000,),
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}

_PLACES = ("mnist/MNIST/raw", "MNIST/raw", "mnist/raw", "raw", "mnist", "MNIST", ".")


def read(folder: Path) -> tuple[Arrays, Arrays]:
    """The training and the test samples, each images `(samples, 28, 28)` and labels, uint8.

    Args:
        folder: the user's data folder. If MNIST is not in it, it is downloaded into it.

    Raises:
        UserError: if MNIST is neither there nor to be had, or a file is not what it should be.
    """
    for place in _PLACES:
        if any(_find(folder / place, name) for name in _FILES):
            return _read_raw(folder / place)
    for place in ("mnist", "."):
        if prepared := sorted((folder / place).glob("*/dataset_info.json")):
            return _read_tfds(prepared[-1].parent)
    return _read_raw(folder / _PLACES[0])


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_raw(folder: Path) -> tuple[Arrays, Arrays]:
    if missing := [name for name in _FILES if not _find(folder, name)]:
        _download(folder, missing)
    train_images, train_labels, test_images, test_labels = (
        _read_idx(_find(folder, name) or folder / name, shape, f"{_URL}{name}.gz")
        for name, (shape, _) in _FILES.items()
    )
    return (train_images, train_labels), (test_images, test_labels)


def _read_idx(path: Path, shape: tuple[int, ...], url: str) -> UInt8[np.ndarray, "..."]:
    """Reads an idx file: two zeros, the type (8: uint8), the rank, each dimension in four bytes, then the data."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read ({error}); expected MNIST's gzipped idx file: replace it, from {url}"
        ) from error
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    expected = len(header) + int(np.prod(shape))
    if not content.startswith(header) or len(content) != expected:
        what = "of another size" if content.startswith(header) else "with another header"
        raise UserError(
            f"{path} is {what} ({len(content)} bytes); expected an idx file of {' × '.join(map(str, shape))} bytes "
            f"({expected} in all): replace it, from {url}"
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _read_tfds(folder: Path) -> tuple[Arrays, Arrays]:
    import tensorflow_datasets as tfds

    try:
        builder: Any = tfds.builder_from_directory(folder)
        if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:  # others fail, or read too little
            raise ValueError(f"its format is {builder.info.file_format.value}")
        arrays = []
        for split, labels in (("train", "train-labels-idx1-ubyte"), ("test", "t10k-labels-idx1-ubyte")):
            source = builder.as_data_source(split)
            (size,), _ = _FILES[labels]
            if len(source) != size:
                raise ValueError(f"it has {len(source)} samples for {split}, not {size}")
            samples = [source[index] for index in range(size)]
            images = np.stack([sample["image"].reshape(28, 28) for sample in samples])
            arrays.append((images, np.asarray([sample["label"] for sample in samples], np.uint8)))
    except Exception as error:  # TFDS and the libraries below it raise many kinds for a damaged file
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} cannot be read as MNIST prepared by TFDS ({reason}); expected file_format='array_record': "
            f"prepare it again so, or put the files of {_URL} into {folder.parent / 'MNIST/raw'}"
        ) from error
    return arrays[0], arrays[1]


def _download(folder: Path, names: list[str]) -> None:
    """Fetches files into a folder, each whole or not at all.

    Raises:
        UserError: if that is not possible.
    """
    files = ", ".join(f"{name}.gz" for name in names)

    def failed(reason: str) -> UserError:
        return UserError(
            f"{folder} lacks {files} and {reason}; put them there, from {_URL}, or name the folder that has MNIST "
            "with --data"
        )

    if not _reachable(_HOST):
        raise failed(f"{_HOST} cannot be reached")
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    downloader: Any = pooch.HTTPDownloader(timeout=(2, 10))  # seconds to connect, and between two answers
    print(f"downloading MNIST to {folder}")
    for name in names:
        try:
            pooch.retrieve(
                f"{_URL}{name}.gz",
                known_hash=f"sha256:{_FILES[name][1]}",
                fname=f"{name}.gz",
                path=folder,
                downloader=downloader,
            )
        except (OSError, ValueError) as error:  # the network's errors are OSErrors too; ValueError: another checksum
            raise failed(f"they cannot be downloaded ({' '.join(str(error).split())[:200]})") from error


def _reachable(host: str, seconds: float = 1.5) -> bool:
    """Whether a host answers; a name server that does not answer is not waited for either. A proxy is trusted."""
    if urllib.request.getproxies():
        return True
    answered = threading.Event()

    def knock() -> None:
        try:
            socket.create_connection((host, 443), timeout=seconds).close()
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()
