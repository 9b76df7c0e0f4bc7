"""Source for data sets prepared by TensorFlow Datasets (TFDS), read without TensorFlow."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from typing_extensions import override

from supsup_jax.checks import check_counts
from supsup_jax.data import files, pictures
from supsup_jax.data.arrays import Dataset
from supsup_jax.data.sources.base import Source, dataset_of
from supsup_jax.errors import UserError

_TEST_SPLITS = ("test", "validation")


@dataclass(frozen=True)
class TFDS(Source):
    """A data set for image classification that TFDS prepared as array_record below the user's data folder.

    The newest version in `<folder>/<name>` is read. The split train is for training, the split test, or else
    validation, for testing. Preparing a data set requires TensorFlow, once:

        tfds.builder("fashion_mnist", data_dir=folder, file_format="array_record").download_and_prepare()

    Attributes:
        name: name of the data set in TFDS, such as `"fashion_mnist"`, with its configuration if it has one, such as
            `"emnist/balanced"`.
        image_size: height and width of the images that the network sees, in pixels: images are resized along their
            shorter side, and cropped at their centre. By default all images must have one size, which is kept.

    Raises:
        UserError: if the data set is missing, in a different format, or not for image classification.
    """

    name: str = field()  # pyright: ignore[reportIncompatibleVariableOverride]
    image_size: int | None = None

    def __post_init__(self) -> None:
        check_counts(self, "image_size")
        if not self.name or not all(part.isidentifier() for part in self.name.replace("-", "_").split("/")):
            raise UserError(f"TFDS: name {self.name!r} must be the name of a data set, such as fashion_mnist")

    @override
    def load(self, folder: Path) -> Dataset:
        place = files.find_prepared(folder, self.name)
        if place is None:
            raise UserError(
                f"{folder / self.name} holds no data set that TFDS prepared; prepare {self.name} there with "
                "file_format='array_record'"
            )
        with files.prepared(
            place, self.name.split("/")[0], f"name a folder other than {folder} with --data"
        ) as builder:
            keys = builder.info.supervised_keys or ("image", "label")
            if not set(keys) <= set(builder.info.features) or len(keys) != 2:
                raise ValueError(f"its features are {', '.join(builder.info.features)}; expected image and label")
            test = next((split for split in _TEST_SPLITS if split in builder.info.splits), None)
            if test is None or "train" not in builder.info.splits:
                raise ValueError(f"its splits are {', '.join(builder.info.splits)}; expected train and test")
            train, held_out = (_read(builder.as_data_source(split), keys, self.image_size) for split in ("train", test))
            if train[0].shape[1:] != held_out[0].shape[1:]:
                raise ValueError("its training and test images have different sizes")
        return dataset_of(train, held_out)

    @override
    def is_present(self, folder: Path) -> bool:
        return files.find_prepared(folder, self.name) is not None


def _read(records: Any, keys: tuple[str, str], size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Read all images and labels of a split.

    Raises:
        Exception: of various types, if records are damaged or not for image classification.
    """
    first = _sized(records[0][keys[0]], size)
    if first.dtype != np.uint8 or first.ndim != 3:
        raise ValueError(f"its {keys[0]} are {first.dtype} of shape {first.shape}, not images")
    images = np.empty((len(records), *first.shape), np.uint8)
    labels = np.empty(len(records), np.int32)
    for row in range(len(records)):
        record = records[row]
        image = _sized(record[keys[0]], size)
        if image.shape != first.shape:
            raise ValueError(f"its images have several sizes, {first.shape} and {image.shape}; give image_size")
        images[row], labels[row] = image, record[keys[1]]
    return images, labels


def _sized(image: np.ndarray, size: int | None) -> np.ndarray:
    """Return an image with the given height and width; other arrays are returned unchanged."""
    if size is None or image.dtype != np.uint8 or image.ndim != 3:
        return image
    picture = pictures.fitted(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image), (size, size), size)
    return np.asarray(picture, np.uint8).reshape(size, size, image.shape[-1])
