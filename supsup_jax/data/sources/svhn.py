"""Source for SVHN."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import override

from supsup_jax.data import files
from supsup_jax.data.arrays import Dataset
from supsup_jax.data.sources.base import Source, dataset_of
from supsup_jax.errors import UserError, reason

_URL = "http://ufldl.stanford.edu/housenumbers/"
_PLACES = ("svhn", "SVHN", ".")
_PREPARED = "svhn_cropped"
_STATISTICS = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)

# Name, MD5 as in torchvision, and number of images of each published file.
FILES: Mapping[str, tuple[str, str, int]] = {
    "train": ("train_32x32.mat", "md5:e26dedcc434d2e4c54c9b2d4a06d8373", 73257),
    "test": ("test_32x32.mat", "md5:eb5a983be6a315427106f1b164d9cef3", 26032),
}


@dataclass(frozen=True)
class SVHN(Source):
    """House numbers: 73,257 training and 26,032 test images of 32 × 32 in colour, 10 classes.

    Read from torchvision's layout (`train_32x32.mat` and `test_32x32.mat`), or a folder that TFDS prepared
    (`svhn_cropped`); otherwise downloaded. The files are verified. Label 10 of the files is the digit 0; here it is
    label 0.
    """

    name: ClassVar[str] = "svhn"

    @override
    def load(self, folder: Path) -> Dataset:
        for place in _PLACES:
            if any((folder / place / name).is_file() for name, _, _ in FILES.values()):
                return _load_files(folder / place)
        if prepared := files.find_prepared(folder, _PREPARED):
            sizes = {split: size for split, (_, _, size) in FILES.items()}
            instead = f"put the files of {_URL} into {folder / _PLACES[0]}"
            return dataset_of(*files.read_prepared(prepared, _PREPARED, sizes, (32, 32, 3), instead), _STATISTICS)
        return _load_files(folder / _PLACES[0])

    @override
    def is_present(self, folder: Path) -> bool:
        has_files = any(all((folder / place / name).is_file() for name, _, _ in FILES.values()) for place in _PLACES)
        return has_files or files.find_prepared(folder, _PREPARED) is not None


def _load_files(folder: Path) -> Dataset:
    if missing := {name: known for name, known, _ in FILES.values() if not (folder / name).is_file()}:
        files.download("SVHN", _URL, missing, folder)
    train, test = (_read(folder / name, known, size) for name, known, size in FILES.values())
    return dataset_of(train, test, _STATISTICS)


def _read(path: Path, known: str, size: int) -> files.RawSamples:
    """Read a MATLAB file with images X `(32, 32, 3, samples)` and labels y `(samples, 1)` from 1 to 10."""
    import scipy.io

    try:
        if not files.has_hash(path, known):  # checked before parsing
            raise ValueError("its checksum is not the published one")
        content = scipy.io.loadmat(path, variable_names=("X", "y"))
        images = np.ascontiguousarray(content["X"].transpose(3, 0, 1, 2))
        labels = content["y"].reshape(-1) % 10
        if images.dtype != np.uint8 or images.shape != (size, 32, 32, 3) or labels.shape != (size,):
            raise ValueError(f"it holds images of shape {images.shape} and labels of shape {labels.shape}")
    except Exception as error:  # various types, for a damaged file
        raise UserError(
            f"{path} cannot be read as SVHN ({reason(error)}); expected {size:,} images of 32 × 32 × 3 as published: "
            f"replace it, from {_URL}{path.name}"
        ) from error
    return images, labels.astype(np.uint8)
