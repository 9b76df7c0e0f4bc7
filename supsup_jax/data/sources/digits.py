"""Handwritten digits that the package contains."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import override

from supsup_jax.data.arrays import Dataset, Samples
from supsup_jax.data.sources.base import Source

FILE = Path(__file__).parents[1] / "digits/digits.npz"
"""UCI's test set of optical digits; its licence lies beside it."""


@dataclass(frozen=True)
class Digits(Source):
    """Handwritten digits that the package contains: 1,797 images of 8 × 8, 10 classes.

    They are the test set of UCI's optical digits, which scikit-learn has too. Every fifth image is for testing. No data
    folder is read and nothing is downloaded.
    """

    name: ClassVar[str] = "digits"
    needs_folder: ClassVar[bool] = False

    @override
    def load(self, folder: Path | None = None) -> Dataset:
        with np.load(FILE, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"].astype(np.int32)
        # The published values are 0 to 16.
        images = np.round(images * (255 / 16)).astype(np.uint8)[..., None]
        test = np.arange(len(labels)) % 5 == 4
        scaled = images[~test] / 255
        train, test_split = (Samples(images[rows], labels[rows]) for rows in (~test, test))
        return Dataset(train, test_split, mean=(float(scaled.mean()),), std=(float(scaled.std()),))
