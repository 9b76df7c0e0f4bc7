"""Sources for MNIST and the data sets in its format."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
from typing_extensions import override

from supsup_jax.data import idx, mnist
from supsup_jax.data.arrays import NORMALISATION, Dataset
from supsup_jax.data.sources.base import Source, dataset_of
from supsup_jax.errors import UserError

_Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class _Idx(Source):
    """A data set of grey images in four idx files."""

    @override
    def load(self, folder: Path) -> Dataset:
        return dataset_of(*self._published().read(folder), self._statistics())

    @override
    def is_present(self, folder: Path) -> bool:
        return self._published().is_present(folder)

    def _published(self) -> idx.IdxDataset:
        raise NotImplementedError

    def _statistics(self) -> _Statistics | None:
        raise NotImplementedError


@dataclass(frozen=True)
class MNIST(_Idx):
    """Handwritten digits: 60,000 training and 10,000 test images of 28 × 28, 10 classes.

    Read from torchvision's layout (`MNIST/raw`), the four files themselves, also by Kaggle's names, or a folder that
    TFDS prepared; otherwise downloaded. The contents are verified.
    """

    name: ClassVar[str] = "mnist"

    def _published(self) -> idx.IdxDataset:
        return mnist.published()

    def _statistics(self) -> _Statistics:
        return NORMALISATION["mnist"]


def _like_mnist(archives: tuple[str, str, str, str]) -> Mapping[str, idx.IdxFile]:
    """Describe the files of a data set of MNIST's size and format, given the MD5 of each gzip as in torchvision."""
    names = idx.TRAIN_IMAGES, idx.TRAIN_LABELS, idx.TEST_IMAGES, idx.TEST_LABELS
    shapes = (60000, 28, 28), (60000,), (10000, 28, 28), (10000,)
    return {
        name: idx.IdxFile(shape, archive=f"md5:{md5}") for name, shape, md5 in zip(names, shapes, archives, strict=True)
    }


FASHION_MNIST = idx.IdxDataset(
    "Fashion-MNIST",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ("FashionMNIST/raw", "fashion_mnist/FashionMNIST/raw", "fashion_mnist", "FashionMNIST", "fashionmnist"),
    _like_mnist(
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        )
    ),
    "fashion_mnist",
)

KUZUSHIJI_MNIST = idx.IdxDataset(
    "Kuzushiji-MNIST",
    "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    ("KMNIST/raw", "kmnist/KMNIST/raw", "kmnist", "KMNIST"),
    _like_mnist(
        (
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        )
    ),
    "kmnist",
)


@dataclass(frozen=True)
class FashionMNIST(_Idx):
    """Clothes: 60,000 training and 10,000 test images of 28 × 28, 10 classes.

    Read from torchvision's layout (`FashionMNIST/raw`), or a folder that TFDS prepared; otherwise downloaded. Files may
    have Kaggle's names. Gzipped files are verified by torchvision's MD5. For unpacked files no checksum is published,
    so only their header is verified.
    """

    name: ClassVar[str] = "fashion_mnist"

    def _published(self) -> idx.IdxDataset:
        return FASHION_MNIST

    def _statistics(self) -> _Statistics:
        return (0.2860,), (0.3530,)


@dataclass(frozen=True)
class KMNIST(_Idx):
    """Kuzushiji-MNIST, cursive Japanese: 60,000 training and 10,000 test images of 28 × 28, 10 classes.

    Read from torchvision's layout (`KMNIST/raw`), or a folder that TFDS prepared; otherwise downloaded. Files are
    verified like those of `FashionMNIST`.
    """

    name: ClassVar[str] = "kmnist"

    def _published(self) -> idx.IdxDataset:
        return KUZUSHIJI_MNIST

    def _statistics(self) -> _Statistics:
        return (0.1918,), (0.3483,)


_EMNIST_PLACES = (
    "EMNIST/raw",
    "EMNIST/raw/gzip",
    "emnist/EMNIST/raw",
    *(f"{folder}{within}" for within in ("", "/gzip", "/emnist_source_files") for folder in ("emnist", "EMNIST", ".")),
)

EMNISTSplit = Literal["balanced", "byclass", "bymerge", "letters", "digits", "mnist"]

# Published numbers of training and test samples.
EMNIST_SIZES: dict[str, tuple[int, int]] = {
    "balanced": (112800, 18800),
    "byclass": (697932, 116323),
    "bymerge": (697932, 116323),
    "letters": (124800, 20800),
    "digits": (240000, 40000),
    "mnist": (60000, 10000),
}


@dataclass(frozen=True)
class EMNIST(_Idx):
    """Handwritten digits and letters: images of 28 × 28, turned upright (the files hold them transposed).

    Read from torchvision's layout (`EMNIST/raw`), the files of the published archive gzip.zip in the same place or in
    Kaggle's folder (`emnist_source_files`), or a folder that TFDS prepared (`emnist/balanced`). The archive has 560 MB
    and is not downloaded automatically.

    Attributes:
        split: `"balanced"` (47 classes), `"byclass"` (62), `"bymerge"` (47), `"letters"` (26, which count from 0 here
            and from 1 in the files), `"digits"` (10) or `"mnist"` (10).
    """

    name: ClassVar[str] = "emnist"

    split: EMNISTSplit = "balanced"

    def __post_init__(self) -> None:
        if self.split not in get_args(EMNISTSplit):
            raise UserError(f"EMNIST: split {self.split!r} does not exist; give one of {', '.join(EMNIST_SIZES)}")

    @override
    def load(self, folder: Path) -> Dataset:
        train, test = self._published().read(folder)
        first = 1 if self.split == "letters" else 0
        for _, labels in (train, test):
            if len(labels) and labels.min() < first:
                raise UserError(f"EMNIST: the labels of {self.split} count from {labels.min()}, not from {first}")
        upright = [(np.ascontiguousarray(images.swapaxes(1, 2)), labels - first) for images, labels in (train, test)]
        return dataset_of(upright[0], upright[1], self._statistics())

    def _published(self) -> idx.IdxDataset:
        train, test = EMNIST_SIZES[self.split]
        prefix = f"emnist-{self.split}"
        files = {
            f"{prefix}-train-images-idx3-ubyte": idx.IdxFile((train, 28, 28)),
            f"{prefix}-train-labels-idx1-ubyte": idx.IdxFile((train,)),
            f"{prefix}-test-images-idx3-ubyte": idx.IdxFile((test, 28, 28)),
            f"{prefix}-test-labels-idx1-ubyte": idx.IdxFile((test,)),
        }
        return idx.IdxDataset(
            "EMNIST",
            "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
            _EMNIST_PLACES,
            files,
            f"emnist/{self.split}",
            zipped=True,
        )

    def _statistics(self) -> _Statistics | None:
        return ((0.1751,), (0.3332,)) if self.split == "balanced" else None
