"""Reader of ImageNet from common folder layouts.

It looks in this order for torchvision's layout (`imagenet/train|val/<wnid>/*.JPEG`, also without `imagenet`), Kaggle's
(`ILSVRC/Data/CLS-LOC/train|val`), and a folder that TFDS prepared as array_record (`imagenet2012/5.1.0`). The images of
val may lie in one folder if Kaggle's `LOC_val_solution.csv` or the annotations give their classes. ImageNet cannot be
downloaded freely.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from rich.progress import track

from supsup_jax.data import files, folders, validation
from supsup_jax.data.images import Encoded, Images, Records
from supsup_jax.errors import UserError
from supsup_jax.system import extras

_COMMON_FOLDERS = ("imagenet", ".", "ImageNet", "ILSVRC2012", "imagenet-object-localization-challenge")
_PLACES = [
    str(Path(folder, within))
    for within in (".", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
    for folder in _COMMON_FOLDERS
]
_FOLDERS = ("train", "val")

_PREPARED = "imagenet2012"
_SPLITS = ("train", "validation")

WNID = r"n\d{8}"
"""Regular expression for the names of ImageNet's classes."""

_LABELS_AT_ONCE = 256

_Split = tuple[Images, Int32[np.ndarray, " _"]]


def read(folder: Path, image_size: int) -> tuple[_Split, _Split]:
    """Return the training and the test images, each with labels: the position of the class in sorted order.

    Args:
        folder: the user's data folder.
        image_size: side of the square images that the network sees, in pixels.

    Raises:
        UserError: if ImageNet is missing or incomplete, or the packages that decode it are not installed.
    """
    extras.require("imagenet", "ImageNet")
    for place in _PLACES:
        if all((folder / place / split).is_dir() for split in _FOLDERS):
            with folders.readable():
                train, test = folders.read(folder / place, _FOLDERS, validation.classes, WNID)
            break
    else:
        if not (prepared := files.find_prepared(folder, _PREPARED)):
            raise UserError(_missing(folder))
        train, test = _read_prepared(prepared)
    return (Images(train[0], image_size), train[1]), (Images(test[0], image_size), test[1])


def is_present(folder: Path) -> bool:
    """Return whether ImageNet is in the user's data folder."""
    has_files = any(all((folder / place / split).is_dir() for split in _FOLDERS) for place in _PLACES)
    return has_files or files.find_prepared(folder, _PREPARED) is not None


def _missing(folder: Path) -> str:
    """Return the error message for missing files, which names the most complete layout."""
    lacking = {
        folder / place: [split for split in _FOLDERS if not (folder / place / split).is_dir()] for place in _PLACES
    }
    nearest = min(lacking, key=lambda place: len(lacking[place]))
    lacks = " and ".join(lacking[nearest])
    return (
        f"{nearest} lacks {lacks}; expected train/<class>/*.JPEG and val/<class>/*.JPEG there, or "
        f"{folder / _PREPARED}/5.1.0 as TFDS prepares it with file_format='array_record': get ImageNet from "
        "https://image-net.org/download, or name the folder that has it with --data"
    )


def _read_prepared(folder: Path) -> list[tuple[Encoded, Int32[np.ndarray, " images"]]]:
    """Read a folder that TFDS prepared; the images stay encoded."""
    tfds = extras.require("tfds", f"{folder}, prepared by TFDS,")

    places = " and ".join(str(folder.parents[1] / _PLACES[0] / split / "<class>") for split in _FOLDERS)

    def images(builder: Any, split: str) -> tuple[Encoded, Int32[np.ndarray, " images"]]:
        records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        return Records(folder, split, records), _labels(folder, split, records)

    with files.prepared(folder, _PREPARED, f"put ImageNet's images into {places}") as builder:
        return [images(builder, split) for split in _SPLITS]


def _labels(folder: Path, split: str, records: Any) -> Int32[np.ndarray, " images"]:
    """Return the labels of all records.

    Reading them takes a pass over the images, so they are stored beside the records: their SHA-256, then the labels.
    """
    cached = folder / f"labels-{split}.bin"
    with suppress(OSError), cached.open("rb") as file:  # it may not exist yet
        digest, labels = file.read(32), file.read(4 * len(records) + 1)
        if len(labels) == 4 * len(records) and hashlib.sha256(labels).digest() == digest:
            return np.frombuffer(labels, "<i4").astype(np.int32)
    starts = range(0, len(records), _LABELS_AT_ONCE)
    batches = (
        records.__getitems__(range(start, min(start + _LABELS_AT_ONCE, len(records))))
        for start in track(starts, f"labels of {folder}, {split}, once")
    )
    labels = np.array([record["label"] for batch in batches for record in batch], np.int32)
    with suppress(OSError):  # if the folder is read-only, the next run reads them again
        content = labels.astype("<i4").tobytes()
        unfinished = cached.with_name(f".{cached.name}.unfinished.{os.getpid()}")
        unfinished.write_bytes(hashlib.sha256(content).digest() + content)
        unfinished.replace(cached)
    return labels
