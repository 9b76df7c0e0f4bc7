"""Sources for users' images and labels, in memory or in a NumPy file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from supsup_jax.data.arrays import Dataset
from supsup_jax.data.pairs import check_channels, check_statistics, column, held, images_array, labels_array, opened
from supsup_jax.data.sources.base import Source, dataset_of
from supsup_jax.errors import UserError, reason


@dataclass(frozen=True, eq=False, repr=False)
class Arrays(Source):
    """Images and labels in memory. Instances with the same content are equal.

    Images are uint8 from 0 to 255, or floats from 0 to 1, `(samples, height, width, channels)`, or `(samples, height,
    width)` if they are grey. PyTorch tensors may have the channels first. Labels are non-negative integers,
    `(samples,)`. Do not modify the arrays afterwards.

    Attributes:
        train: training images and labels: a pair, or a PyTorch data set.
        test: test images and labels, in the same form.
        mean: mean of each channel, of images scaled to [0, 1]; by default that of the training images.
        std: standard deviation of each channel, of images scaled to [0, 1]; by default that of the training images.

    Raises:
        UserError: if images or labels have the wrong shape, type or range.
    """

    name: ClassVar[str] = "arrays"
    needs_folder: ClassVar[bool] = False

    train: tuple[Any, Any] | Any
    test: tuple[Any, Any] | Any
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            if not isinstance(pair := getattr(self, split), tuple):
                object.__setattr__(self, split, _opened(split, pair, "Arrays"))
        channels = self._samples[0][0].shape[-1]
        if (self.mean is None) != (self.std is None):
            raise UserError("Arrays: mean requires std and vice versa")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                continue
            if len(values) == 1 < channels:
                values = tuple(values) * channels
                object.__setattr__(self, name, values)
            if len(values) != channels:
                raise UserError(f"Arrays: {name} has {len(values)} values; give one for each of {channels} channels")
            if not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
                above = "above 0" if name == "std" else "that are finite"
                raise UserError(f"Arrays: {name} {tuple(values)} is out of range; give numbers {above}")
        if self.mean is not None:
            check_statistics("Arrays", self.mean, self.std)

    @override
    def load(self, folder: Path | None = None) -> Dataset:
        statistics = None if self.mean is None or self.std is None else (tuple(self.mean), tuple(self.std))
        return dataset_of(*self._samples, statistics)

    @cached_property
    def _samples(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Training and test samples as the library holds them."""
        train, test = (checked(pair, split, "Arrays") for pair, split in ((self.train, "train"), (self.test, "test")))
        check_shapes(train, test, "Arrays")
        return train, test

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, as hexadecimal digits."""
        sha = hashlib.sha256(repr((self.mean, self.std)).encode())
        for array in (*self._samples[0], *self._samples[1]):
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arrays) and (self is other or self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        train, test = (images for images, _ in self._samples)
        return f"Arrays({len(train)} training and {len(test)} test images of {' × '.join(map(str, train.shape[1:]))})"


# Names that the arrays of an .npz file may have: those of this library, and those of Keras.
_NAMES = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)


@dataclass(frozen=True)
class NPZ(Source):
    """Arrays in a file written by `numpy.savez`, in the form that `Arrays` takes.

    Their names are train_images, train_labels, test_images and test_labels, or x_train, y_train, x_test and y_test as
    in Keras' mnist.npz.

    Attributes:
        path: path of the file, absolute or relative to the user's data folder.

    Raises:
        UserError: if the file is missing or damaged, or the arrays have other names.
    """

    name: ClassVar[str] = "npz"

    path: str

    def __post_init__(self) -> None:
        if not self.path or not str(self.path).isprintable():
            raise UserError(f"NPZ: path {self.path!r} must name a file that numpy.savez wrote")
        object.__setattr__(self, "path", str(self.path))

    @override
    def load(self, folder: Path) -> Dataset:
        path = folder / Path(self.path).expanduser()
        try:
            file = np.load(path, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it contains a single array")
            with file:
                names = next((names for names in _NAMES if set(names) <= set(file.files)), None)
                if names is None:
                    raise ValueError(f"it contains {', '.join(file.files) or 'no array'}")
                train_images, train_labels, test_images, test_labels = (file[name] for name in names)
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; name a file that numpy.savez wrote") from None
        except Exception as error:  # various types, for a damaged file
            raise UserError(
                f"{path} cannot be read ({reason(error)}); expected {', '.join(_NAMES[0])}, or {', '.join(_NAMES[1])}, "
                "written with numpy.savez"
            ) from error
        train = checked((train_images, train_labels), "train", str(path))
        test = checked((test_images, test_labels), "test", str(path))
        check_shapes(train, test, str(path))
        return dataset_of(train, test)

    @override
    def is_present(self, folder: Path) -> bool:
        return (folder / Path(self.path).expanduser()).is_file()


def checked(pair: Any, split: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Check images and labels, and convert them to the form that the library holds.

    Args:
        pair: images and labels, as `Arrays` takes them.
        split: `"train"` or `"test"`, for messages.
        where: name of the argument or file, for messages.

    Returns:
        Images from 0 to 255, uint8 or float32, `(samples, height, width, channels)`, and labels, int32.

    Raises:
        UserError: if they have the wrong shape, type or range.
    """

    def refuse(problem: str) -> UserError:
        return UserError(f"{where}: {split} {problem}")

    given_images, given_labels = _opened(split, pair, where)
    try:
        images, labels = images_array("images", given_images), labels_array("labels", given_labels)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape[1:] or (split == "train" and not len(images)):
        raise refuse(f"images have shape {images.shape}; give (samples, height, width, channels)")
    check_channels(where, images.shape[1:])
    images = held(images, refuse, f"{where}: {split}")
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)
    check_labels(labels, len(images), f"{where}: {split}")
    return images, labels.astype(np.int32)


def _opened(split: str, pair: Any, where: str) -> tuple[Any, Any]:
    try:
        return opened(split, pair)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_labels(labels: np.ndarray, samples: int, where: str) -> None:
    """Check that there is one non-negative integer label per sample.

    Args:
        labels: the labels.
        samples: number of images.
        where: name of the labels' origin, for messages.

    Raises:
        UserError: if labels have the wrong shape, type or range.
    """
    if labels.shape != (samples,):
        how = column(labels, samples)
        raise UserError(f"{where} labels have shape {labels.shape}; give ({samples},), one per sample{how}")
    if labels.dtype.kind not in "iu":
        how = "; number them with np.unique(labels, return_inverse=True)[1]" if labels.dtype.kind in "bU" else ""
        raise UserError(f"{where} labels are {labels.dtype}; give non-negative integers{how}")
    if samples and labels.min() < 0:
        raise UserError(f"{where} labels go down to {labels.min()}; renumber the classes from 0")
    if samples and labels.max() >= 2**31:
        raise UserError(f"{where} labels go up to {labels.max()}; renumber the classes from 0")


def check_shapes(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], where: str) -> None:
    """Check that the training and the test images have the same shape and type.

    Raises:
        UserError: if shapes or types differ.
    """
    if train[0].shape[1:] != test[0].shape[1:] or train[0].dtype != test[0].dtype:
        raise UserError(
            f"{where}: training images are {train[0].dtype} of shape {train[0].shape[1:]}, test images "
            f"{test[0].dtype} of {test[0].shape[1:]}; give both the same shape and type"
        )
