"""Source for the handwritten digits that the package contains."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import override

from supsup_jax.data.arrays import Dataset, Samples
from supsup_jax.data.sources.base import Source

FILE = Path(__file__).parents[1] / "digits/digits.npz"
"""UCI's test set of optical digits; its licence is in the same folder."""


@dataclass(frozen=True)
class Digits(Source):
    """Handwritten digits that the package contains: 1,797 images of 8 × 8, 10 classes.

    They are the test set of UCI's optical digits, as in scikit-learn. Every fifth image is a test image. `load` reads
    no data folder and downloads nothing.
    """

    name: ClassVar[str] = "digits"
    needs_folder: ClassVar[bool] = False

    @override
    def load(self, folder: Path | None = None) -> Dataset:
        with np.load(FILE, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"].astype(np.int32)
        # Published values are from 0 to 16.
        images = np.round(images * (255 / 16)).astype(np.uint8)[..., None]
        test = np.arange(len(labels)) % 5 == 4
        scaled = images[~test] / 255
        train, test_split = (Samples(images[rows], labels[rows]) for rows in (~test, test))
        return Dataset(train, test_split, mean=(float(scaled.mean()),), std=(float(scaled.std()),))
