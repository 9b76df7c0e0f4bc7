"""MNIST from the folders that people have, else downloaded.

In this order: torchvision's layout (`MNIST/raw`, also below `mnist`), the files themselves, gzipped or not, and a
folder that TFDS prepared (`mnist/3.0.1`). What is downloaded goes to `mnist/MNIST/raw`.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from supsup_jax.data import files
from supsup_jax.errors import UserError

_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"

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


def read(folder: Path) -> tuple[files.Samples, files.Samples]:
    """The training and the test samples, each images `(samples, 28, 28, 1)` and labels, uint8.

    Args:
        folder: the user's data folder. If MNIST is not in it, it is downloaded into it.

    Raises:
        UserError: if MNIST is neither there nor to be had, or a file is not what it should be.
    """
    for place in _PLACES:
        if any(_find(folder / place, name) for name in _FILES):
            return _read_raw(folder / place)
    if prepared := files.find_prepared(folder, "mnist"):
        sizes = {"train": _FILES["train-labels-idx1-ubyte"][0][0], "test": _FILES["t10k-labels-idx1-ubyte"][0][0]}
        instead = f"put the files of {_URL} into {prepared.parent / 'MNIST/raw'}"
        return files.read_prepared(prepared, "mnist", sizes, (28, 28, 1), instead)
    return _read_raw(folder / _PLACES[0])


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_raw(folder: Path) -> tuple[files.Samples, files.Samples]:
    if missing := {f"{name}.gz": known for name, (_, known) in _FILES.items() if not _find(folder, name)}:
        files.download("MNIST", _URL, missing, folder)
    train_images, train_labels, test_images, test_labels = (
        _read_idx(_find(folder, name) or folder / name, shape, f"{_URL}{name}.gz")
        for name, (shape, _) in _FILES.items()
    )
    return (train_images[..., None], train_labels), (test_images[..., None], test_labels)


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
