"""What a source of data has to implement."""

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
    """A data set and the options with which it is loaded.

    A subclass implements `load`, and names itself. It can stand in the user's own file:

        @dataclass(frozen=True)
        class Shapes(data.Source):
            name = "shapes"
            size: int = 8

            def load(self, folder):
                return data.Arrays(train=(images, labels), test=(test_images, test_labels)).load(folder)

    It is a frozen dataclass whose fields are hashable and check themselves in `__post_init__`; they are the flags of a
    script. `load` returns the same arrays every time.

    Attributes:
        name: short lower-case name, for messages.
        needs_folder: whether `load` reads below the user's data folder. Ask it of an instance.
        on_disk: whether images stay encoded on disk and are decoded task by task, as `Images`.
    """

    kind: ClassVar[str] = "source"

    name: ClassVar[str]
    needs_folder: ClassVar[bool] = True
    on_disk: ClassVar[bool] = False

    @abstractmethod
    def load(self, folder: Path) -> Dataset:
        """Loads the data set.

        Args:
            folder: the user's data folder, in which `~` is expanded. What is missing may be downloaded into it.

        Returns:
            Images, uint8 of 0 to 255 or floats of 0 to 1, labels that count from 0, and the mean and standard deviation
            of the training images' channels, of images scaled to [0, 1].

        Raises:
            UserError: if the data set is missing or damaged.
        """

    def is_present(self, folder: Path) -> bool:
        """Whether the data set is there, so that `load` downloads nothing.

        Args:
            folder: as for `load`.
        """
        return True


def dataset_of(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    published: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Dataset:
    """A data set in memory from what a reader returned.

    Args:
        train: training images of 0 to 255, `(samples, height, width, channels)`, and labels.
        test: test images and labels.
        published: the mean and standard deviation of each channel; by default those of the training images.
    """
    mean, std = published or mean_and_std(train[0])
    train_split, test_split = (Samples(images, labels.astype(np.int32)) for images, labels in (train, test))
    return Dataset(train_split, test_split, mean, std)
