"""MNIST from the folders that people have, else downloaded.

In this order: torchvision's layout (`MNIST/raw`, also below `mnist`), the files themselves, gzipped or not, and a
folder that TFDS prepared (`mnist/3.0.1`). What is downloaded goes to `mnist/MNIST/raw`.
"""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from supsup_jax.data import files
from supsup_jax.errors import UserError

_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"

# The shape that each published file has, and the SHA-256 of its gzip, as TFDS registers it, and of what that holds.
_FILES = {
    "train-images-idx3-ubyte": (
        (60000, 28, 28),
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        (60000,),
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        (10000, 28, 28),
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        (10000,),
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}

_PLACES = ("mnist/MNIST/raw", "MNIST/raw", "mnist/raw", "raw", "mnist", "MNIST", ".")


def read(folder: Path) -> tuple[files.RawSamples, files.RawSamples]:
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


def _read_raw(folder: Path) -> tuple[files.RawSamples, files.RawSamples]:
    if missing := {f"{name}.gz": known for name, (_, known, _) in _FILES.items() if not _find(folder, name)}:
        files.download("MNIST", _URL, missing, folder)
    train_images, train_labels, test_images, test_labels = (
        _read_idx(_find(folder, name) or folder / name, shape, known, f"{_URL}{name}.gz")
        for name, (shape, _, known) in _FILES.items()
    )
    return (train_images[..., None], train_labels), (test_images[..., None], test_labels)


def _read_idx(path: Path, shape: tuple[int, ...], known: str, url: str) -> UInt8[np.ndarray, "..."]:
    """Reads an idx file: two zeros, the type (8: uint8), the rank, each dimension in four bytes, then the data.

    Of a file that is larger, or made to be once it is unpacked, no more is read than shows that.
    """
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    expected = len(header) + int(np.prod(shape))
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read(expected + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read ({error}); expected MNIST's idx file, gzipped or not: replace it, from {url}"
        ) from error
    if not content.startswith(header) or len(content) != expected:
        what = "of another size" if content.startswith(header) else "with another header"
        size = f"{len(content)} bytes" if len(content) <= expected else "more bytes"
        raise UserError(
            f"{path} is {what} ({size}); expected an idx file of {' × '.join(map(str, shape))} bytes "
            f"({expected} in all): replace it, from {url}"
        )
    if hashlib.sha256(content).hexdigest() != known:
        raise UserError(
            f"{path} is not as MNIST was published (its content has another checksum): replace it, from {url}"
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
