"""CIFAR-100 from the folders that people have, else downloaded.

In this order: torchvision's layout (`cifar100/cifar-100-python`, also without `cifar100`), the published archive
`cifar-100-python.tar.gz` in the same places, which is read as it is, and a folder that TFDS prepared
(`cifar100/3.0.2`). What is downloaded is the archive, to `cifar100`.
"""

import io
import pickle
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from supsup_jax.data import files
from supsup_jax.errors import UserError

_URL = "https://www.cs.toronto.edu/~kriz/"
_FOLDER = "cifar-100-python"
_ARCHIVE = "cifar-100-python.tar.gz"

# The SHA-256 of the archive, as TFDS registers it.
_HASH = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"

_SIZES = {"train": 50000, "test": 10000}
_PLACES = ("cifar100", ".")
_CLASSES = 100


def read(folder: Path) -> tuple[files.Samples, files.Samples]:
    """The training and the test samples, each images `(samples, 32, 32, 3)` and fine labels, uint8.

    Args:
        folder: the user's data folder. If CIFAR-100 is not in it, it is downloaded into it.

    Raises:
        UserError: if CIFAR-100 is neither there nor to be had, or a file is not what it should be.
    """
    for place in _PLACES:
        if all((folder / place / _FOLDER / split).is_file() for split in _SIZES):
            return _read_folder(folder / place / _FOLDER)
    for place in _PLACES:
        if (archive := folder / place / _ARCHIVE).is_file():
            return _read_archive(archive)
    archive = folder / _PLACES[0] / _ARCHIVE
    if prepared := files.find_prepared(folder, "cifar100"):
        instead = f"put {_URL}{_ARCHIVE} into {archive.parent}"
        return files.read_prepared(prepared, "cifar100", _SIZES, (32, 32, 3), instead)
    files.download("CIFAR-100", _URL, {_ARCHIVE: _HASH}, archive.parent)
    return _read_archive(archive)


def _read_folder(folder: Path) -> tuple[files.Samples, files.Samples]:
    def samples(split: str) -> files.Samples:
        with _naming(folder / split):
            return _samples((folder / split).read_bytes(), _SIZES[split])

    return samples("train"), samples("test")


def _read_archive(path: Path) -> tuple[files.Samples, files.Samples]:
    """Reads both files in one pass over the archive; nothing is written, so no member can land elsewhere."""
    found = {}
    splits = {f"{_FOLDER}/{split}": split for split in _SIZES}
    with _naming(path), tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if split := splits.get(member.name):
                if (file := archive.extractfile(member)) is None:
                    raise ValueError(f"{member.name} is no file")
                found[split] = _samples(file.read(), _SIZES[split])
        if missing := [name for name, split in splits.items() if split not in found]:
            raise ValueError(f"it has no {' and no '.join(missing)}")
    return found["train"], found["test"]


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns whatever reading a damaged file raises, which is of many kinds, into an error that names the file."""
    try:
        yield
    except Exception as error:
        sizes = " and ".join(f"{size:,} {split}" for split, size in _SIZES.items())
        raise UserError(
            f"{path} cannot be read as CIFAR-100 ({files.reason(error)}); expected {sizes} images as published: "
            f"replace it, from {_URL}{_ARCHIVE}"
        ) from error


class _Made:
    """Stands for an array or its type: what a pickle makes it with, and the state that it gives it."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments
        self.state = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Reads plain values and arrays, and runs nothing that the file names, not even NumPy.

    NumPy would make types and arrays of every kind that a pickle asks for; here it is only noted what it asks for.
    """

    def find_class(self, module_name: str, global_name: str, /) -> type[_Made]:
        """The stand-in for what an array is made of.

        Raises:
            UnpicklingError: for anything else.
        """
        if (module_name.replace("numpy._core", "numpy.core"), global_name) not in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        ):
            raise pickle.UnpicklingError(f"it would run {module_name}.{global_name}")
        return _Made


def _samples(pickled: bytes, size: int) -> files.Samples:
    """Reads a pickle that Python 2 wrote, whose keys are bytes, or one whose keys are strings.

    Raises:
        Exception: of many kinds, if the file is not what it should be.
    """
    content = _Unpickler(io.BytesIO(pickled), encoding="bytes").load()
    if not isinstance(content, dict):
        raise ValueError("it has no dictionary")
    content = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    labels = content.get("fine_labels")
    if not isinstance(labels, list) or len(labels) != size or not all(label in range(_CLASSES) for label in labels):
        raise ValueError(f"its fine_labels are not {size:,} numbers from 0 to {_CLASSES - 1}")
    pixels = _pixels(content.get("data"), (size, 3 * 32 * 32))
    # A row is the red, then the green, then the blue channel.
    images = np.ascontiguousarray(pixels.reshape(size, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, np.asarray(labels, np.uint8)


def _pixels(made: Any, shape: tuple[int, ...]) -> UInt8[np.ndarray, "samples pixels"]:
    """The array that a pickle describes, if it is uint8 of a shape."""
    match made:
        case _Made(state=(_, found, _Made(arguments=(kind, *_)), bool(by_columns), bytes(content))):
            if found != shape or kind not in ("u1", b"u1"):
                raise ValueError(f"its data are of shape {found} and type {kind!r}, not {shape} and 'u1'")
            return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")
    raise ValueError(f"its data are no array of {' × '.join(map(str, shape))} bytes")
