"""CIFAR-100 from the folders that people have, else downloaded.

In this order: torchvision's layout (`cifar100/cifar-100-python`, also without `cifar100`), the published archive
`cifar-100-python.tar.gz` in the same places, which is read as it is, and a folder that TFDS prepared
(`cifar100/3.0.2`). What is downloaded is the archive, to `cifar100`.
"""

import gzip
import hashlib
import pickletools
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from supsup_jax.data import files
from supsup_jax.errors import UserError, reason

_URL = "https://www.cs.toronto.edu/~kriz/"
_FOLDER = "cifar-100-python"
_ARCHIVE = "cifar-100-python.tar.gz"

# The SHA-256 of the archive, as TFDS registers it.
_HASH = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"

# The MD5 of each published file in it, as torchvision has it, and the SHA-256 of all its images in any order.
_KNOWN = {
    "train": (
        "16019d7e3df5f24257cddd939b257f8d",
        "640c97a4012a8aebfcaf57fd82a33dd43b37d2e397a02cb9b0a3d89e6d6d936d",
    ),
    "test": (
        "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "a6a97df7b61bc7420bc44268696e8963d33129bc050978f2a63d8fe3420989fa",
    ),
}

_SIZES = {"train": 50000, "test": 10000}
_PLACES = ("cifar100", ".")
_CLASSES = 100

# An image has 3,072 bytes, a name and two labels; nothing that holds more than this is read.
_BYTES_PER_IMAGE = 4096
_BYTES_BESIDE = 1 << 20


def read(folder: Path) -> tuple[files.RawSamples, files.RawSamples]:
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


def _read_folder(folder: Path) -> tuple[files.RawSamples, files.RawSamples]:
    def samples(split: str) -> files.RawSamples:
        with _naming(folder / split), (folder / split).open("rb") as file:
            return _samples(_Bounded(file, _most(split)).read(), split)

    return samples("train"), samples("test")


def _read_archive(path: Path) -> tuple[files.RawSamples, files.RawSamples]:
    """Reads both files in one pass over the archive; nothing is written, so no member can land elsewhere."""
    found = {}
    splits = {f"{_FOLDER}/{split}": split for split in _SIZES}
    with _naming(path), gzip.open(path) as unpacked:
        bounded: Any = _Bounded(unpacked, sum(map(_most, _SIZES)))
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for member in archive:
                if split := splits.get(member.name):
                    file = archive.extractfile(member) if member.isreg() else None
                    if file is None:
                        raise ValueError(f"{member.name} is no file")
                    found[split] = _samples(_Bounded(file, _most(split)).read(), split)
        if missing := [name for name, split in splits.items() if split not in found]:
            raise ValueError(f"it has no {' and no '.join(missing)}")
    return found["train"], found["test"]


def _most(split: str) -> int:
    return _BYTES_BESIDE + _BYTES_PER_IMAGE * _SIZES[split]


class _Bounded:
    """Reads a file to a limit: what unpacks to more, or says that it is larger, takes no more memory than that."""

    def __init__(self, file: Any, most: int):
        self._file, self._left = file, most

    def read(self, size: int = -1) -> bytes:
        """Reads so many bytes, or to the end.

        Raises:
            ValueError: if that is beyond the limit.
        """
        content = self._file.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise ValueError("it is much larger")
        return content


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns whatever reading a damaged file raises, which is of many kinds, into an error that names the file."""
    try:
        yield
    except Exception as error:
        sizes = " and ".join(f"{size:,} {split}" for split, size in _SIZES.items())
        raise UserError(
            f"{path} cannot be read as CIFAR-100 ({reason(error)}); expected {sizes} images as published: "
            f"replace it, from {_URL}{_ARCHIVE}"
        ) from error


@dataclass
class _Made:
    """Stands for an array or its type: what a pickle makes it with, and the state that it gives it."""

    arguments: Any
    state: Any = None


# All that a pickle may name: what an array is made of.
_OF_ARRAYS = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))


def _unpickled(pickled: bytes, most: int) -> Any:
    """What a pickle holds, if that is plain values, lists, dictionaries and arrays; nothing that it names is run.

    Python's own unpickler makes whatever a file names, and reserves memory as large as a few bytes claim.

    Args:
        pickled: the file.
        most: steps of it that are gone at most, each of which makes one value.

    Raises:
        Exception: of many kinds, if it holds anything else.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    named = object()

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def name(module: Any, what: Any) -> None:
        if (str(module).replace("numpy._core", "numpy.core"), what) not in _OF_ARRAYS:
            raise ValueError(f"it would run {module}.{what}")
        stack.append(named)

    def set_items(items: list[Any]) -> None:
        if not all(isinstance(key, bytes | str) for key in items[::2]):  # others can take for ever to look up
            raise ValueError("it has a dictionary whose keys are no text")
        stack[-1].update(zip(items[::2], items[1::2], strict=True))

    for step, (opcode, value, _) in enumerate(pickletools.genops(pickled)):
        if step > most:
            raise ValueError("it holds much more than images and labels")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "BININT" | "BININT1" | "BININT2" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(value)
            case "BINSTRING" | "SHORT_BINSTRING":  # of Python 2, where text is bytes
                stack.append(str(value).encode("latin-1"))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[opcode.name])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            case "SETITEM":
                items = [stack.pop(), stack.pop()]
                set_items(items[::-1])
            case "SETITEMS":
                set_items(since_mark())
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "GLOBAL":
                name(*str(value).split(" ", 1))
            case "STACK_GLOBAL":
                what, module = stack.pop(), stack.pop()
                name(module, what)
            case "REDUCE":
                arguments = stack.pop()
                if stack.pop() is not named:
                    raise ValueError("it calls what is no array")
                stack.append(_Made(arguments))
            case "BUILD":
                state = stack.pop()
                stack[-1].state = state
            case other:
                raise ValueError(f"it uses {other}, which images and labels do not need")
    raise ValueError("it has no end")


def _samples(pickled: bytes, split: str) -> files.RawSamples:
    """Reads a pickle that Python 2 wrote, whose keys are bytes, or one whose keys are strings.

    Raises:
        Exception: of many kinds, if the file is not what it should be.
    """
    size = _SIZES[split]
    content = _unpickled(pickled, 1000 + 10 * size)
    if not isinstance(content, dict):
        raise ValueError("it has no dictionary")
    content = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    labels = content.get("fine_labels")
    if (
        not isinstance(labels, list)
        or len(labels) != size
        or not all(type(label) is int and label in range(_CLASSES) for label in labels)
    ):
        raise ValueError(f"its fine_labels are not {size:,} numbers from 0 to {_CLASSES - 1}")
    pixels = _pixels(content.get("data"), (size, 3 * 32 * 32))
    # A row is the red, then the green, then the blue channel.
    images = np.ascontiguousarray(pixels.reshape(size, 3, 32, 32).transpose(0, 2, 3, 1))
    known = _KNOWN[split]
    if hashlib.md5(pickled, usedforsecurity=False).hexdigest() not in known and _digest(images, labels) not in known:
        raise ValueError("its images and labels have another checksum than the published ones")
    return images, np.asarray(labels, np.uint8)


def _digest(images: UInt8[np.ndarray, "_ height width channels"], labels: list[int]) -> str:
    """The SHA-256 of images with their labels, whatever their order and however they are written."""
    each = (
        hashlib.sha256(image.tobytes() + bytes([label])).digest() for image, label in zip(images, labels, strict=True)
    )
    return hashlib.sha256(b"".join(sorted(each))).hexdigest()


def _pixels(made: Any, shape: tuple[int, ...]) -> UInt8[np.ndarray, "samples pixels"]:
    """The array that a pickle describes, if it is uint8 of a shape."""
    match made:
        case _Made(
            state=(
                _,
                (int(), int()) as found,
                _Made(arguments=(str() | bytes() as kind, *_)),
                bool(by_columns),
                bytes(content),
            )
        ):
            if found != shape or kind not in ("u1", b"u1"):
                raise ValueError(f"its data are of shape {found} and type {kind!r}, not {shape} and 'u1'")
            return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")
    raise ValueError(f"its data are no array of {' × '.join(map(str, shape))} bytes")
