"""Source for notMNIST."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import override

from supsup_jax.data import folders
from supsup_jax.data.arrays import Dataset
from supsup_jax.data.images import Files
from supsup_jax.data.sources.base import Source, dataset_of
from supsup_jax.data.sources.folders import decoded
from supsup_jax.errors import UserError

_URL = "http://yaroslavvb.com/upload/notMNIST/notMNIST_small.tar.gz"
_PLACES = ("notMNIST", "notmnist", "notmnist/notMNIST", ".")
_SPLITS = (("Train", "Test"), ("train", "test"))
_SMALL = ("notMNIST_small", "notmnist/notMNIST_small", "notMNIST/notMNIST_small")
_CLASS = "[A-J]"
_HELD_OUT = 10

_DAMAGED = (b"A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png", b"F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png")
"""Files of the published archive that are not images."""


@dataclass(frozen=True)
class NotMNIST(Source):
    """Letters A to J in many typefaces: images of 28 × 28, 10 classes.

    Read from the unpacked archive notMNIST_small.tar.gz (`notMNIST_small/<letter>`, 18,724 images), where every
    tenth image of a class is a test image; or from a copy that is split already (`notMNIST/Train/<letter>` and
    `notMNIST/Test/<letter>`), as used for the sequence of five data sets. It is not downloaded automatically.

    Raises:
        UserError: if a folder is missing, or an image cannot be read.
    """

    name: ClassVar[str] = "notmnist"

    @override
    def load(self, folder: Path) -> Dataset:
        with folders.readable():
            splits = _listed(folder)
        train, test = ((decoded(files, 28, 1), labels) for files, labels in splits)
        return dataset_of(train, test)

    @override
    def is_present(self, folder: Path) -> bool:
        return _place(folder) is not None


def _place(folder: Path) -> tuple[Path, tuple[str, str] | None] | None:
    """Return the folder of the data set, and the names of its splits, if it is split."""
    for place in _PLACES:
        for splits in _SPLITS:
            if all((folder / place / split / "A").is_dir() for split in splits):
                return folder / place, splits
    return next(((folder / place, None) for place in _SMALL if (folder / place / "A").is_dir()), None)


def _listed(folder: Path) -> list[folders.Split]:
    """List the training and the test images.

    Raises:
        UserError: if the data set is missing or has a class without images.
    """
    place = _place(folder)
    if place is None:
        raise UserError(
            f"{folder / _SMALL[0]} does not exist; unpack {_URL} into {folder}, or name the folder that has notMNIST "
            "with --data"
        )
    root, splits = place
    if splits is not None:
        return folders.read(root, splits, names=_CLASS)
    files, labels = folders.read(root, (".", "."), names=_CLASS)[0]
    whole = ~np.isin(files.paths, _DAMAGED)
    paths, labels = files.paths[whole], labels[whole]
    position = np.arange(len(labels)) - np.searchsorted(labels, labels)
    test = position % _HELD_OUT == _HELD_OUT - 1
    return [(Files(root, paths[rows]), labels[rows]) for rows in (~test, test)]
