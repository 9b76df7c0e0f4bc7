"""Sources for folders of images, one folder per class."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import UInt8
from typing_extensions import override

from supsup_jax.data import folders, pictures
from supsup_jax.data.arrays import Dataset
from supsup_jax.data.inputs import Inputs
from supsup_jax.data.sources.base import Source, dataset_of
from supsup_jax.errors import UserError
from supsup_jax.system import backend

_TEST_FOLDERS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class ImageFolder(Source):
    """Images in one folder per class, loaded into memory: `train/<class>/*.png` and `test/<class>/*.png`.

    Test images may also be in a folder val, valid or validation. It is used in place of a test folder without classes,
    as competitions have it. A class's label is its position in sorted order. PNG and JPEG files are read. Images of
    other sizes are resized to `image_size` along their shorter side, and cropped at their centre.

    Attributes:
        path: path of the folder, absolute or relative to the user's data folder; by default the data folder itself.
        image_size: height and width of the images that the network sees, in pixels.
        channels: 3 for colour, 1 for grey; files are converted.

    Raises:
        UserError: if a folder is missing, the splits have different classes, or an image cannot be read.
    """

    name: ClassVar[str] = "image_folder"

    path: str | None = None
    image_size: int = 32
    channels: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        if self.path is not None:
            object.__setattr__(self, "path", str(self.path))
        if self.image_size < 1:
            raise UserError(f"ImageFolder: image_size {self.image_size} must be at least 1")
        if self.channels not in (1, 3):
            raise UserError(f"ImageFolder: channels {self.channels} must be 1 or 3")

    @override
    def load(self, folder: Path) -> Dataset:
        root = self._root(folder)
        test = _test_folder(root)
        for split in ("train", test):
            if not (root / split).is_dir():
                raise UserError(f"{root} lacks {split}; expected train/<class> and test/<class> (or val/<class>) there")
        with folders.readable():
            splits = folders.read(root, ("train", test))
        train, held_out = ((decoded(files, self.image_size, self.channels), labels) for files, labels in splits)
        return dataset_of(train, held_out)

    @override
    def is_present(self, folder: Path) -> bool:
        root = self._root(folder)
        return (root / "train").is_dir() and any((root / split).is_dir() for split in _TEST_FOLDERS)

    def _root(self, folder: Path) -> Path:
        return folder / Path(self.path or ".").expanduser()


def decoded(files: folders.Files, size: int, channels: int) -> UInt8[np.ndarray, "images size size channels"]:
    """Decode all images of a split, on all cores.

    Args:
        files: the images.
        size: length to which shorter sides are resized before images are cropped at their centre, in pixels.
        channels: 3 for colour, 1 for grey.

    Raises:
        UserError: if an image cannot be read.
    """
    inputs = Inputs((size, size, channels), (), (), 0)
    images = np.empty((len(files), *inputs.image_shape), np.uint8)

    def decode(row: int) -> None:
        images[row] = pictures.read_picture(Path(files.name(row)), inputs, size)

    with ThreadPoolExecutor(backend.cores()) as threads:
        for _ in threads.map(decode, range(len(files))):
            pass
    return images


def _test_folder(root: Path) -> str:
    """Return the name of the test folder: the first candidate with classes, or else the first that exists."""
    existing = [split for split in _TEST_FOLDERS if (root / split).is_dir()]
    with suppress(OSError):  # reported later, when the folder is read
        existing.sort(key=lambda split: not folders.class_folders(root / split))
    return existing[0] if existing else _TEST_FOLDERS[0]
