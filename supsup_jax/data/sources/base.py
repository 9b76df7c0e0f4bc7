"""Base class of data sources."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from supsup_jax.arguments import Part
from supsup_jax.data.arrays import Dataset, Samples
from supsup_jax.data.statistics import mean_and_std


@dataclass(frozen=True)
class Source(Part, ABC):
    """Base class of data sources: a data set and the options with which it is loaded.

    A subclass has a `name` and implements `load`. It can be defined in a user's script:

        @dataclass(frozen=True)
        class Shapes(data.Source):
            name = "shapes"
            size: int = 8

            def load(self, folder):
                return data.Arrays(train=(images, labels), test=(test_images, test_labels)).load(folder)

    It is a frozen dataclass with hashable fields, which it validates in `__post_init__`. The fields become the flags of
    a script. `load` must return the same arrays every time.

    Attributes:
        name: short name in lower case, for messages.
        needs_folder: whether `load` reads from the user's data folder. Read this attribute from an instance.
        on_disk: whether images stay encoded on disk and are decoded for each task, as `Images`.
    """

    kind: ClassVar[str] = "source"

    name: ClassVar[str]
    needs_folder: ClassVar[bool] = True
    on_disk: ClassVar[bool] = False

    @abstractmethod
    def load(self, folder: Path) -> Dataset:
        """Load the data set.

        Args:
            folder: the user's data folder, with `~` expanded. Missing files may be downloaded into it.

        Returns:
            Images, uint8 from 0 to 255 or floats from 0 to 1, labels that count from 0, and the mean and standard
            deviation of each channel of the training images, scaled to [0, 1].

        Raises:
            UserError: if the data set is missing or damaged.
        """

    def is_present(self, folder: Path) -> bool:
        """Return whether the data set is complete, so that `load` downloads nothing.

        Args:
            folder: the user's data folder, with `~` expanded.
        """
        return True


def dataset_of(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    published: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Dataset:
    """Return a data set in memory, given the arrays of a reader.

    Args:
        train: training images from 0 to 255, `(samples, height, width, channels)`, and labels.
        test: test images and labels.
        published: published mean and standard deviation of each channel; by default those of the training images.
    """
    mean, std = published or mean_and_std(train[0])
    train_split, test_split = (Samples(images, labels.astype(np.int32)) for images, labels in (train, test))
    return Dataset(train_split, test_split, mean, std)
