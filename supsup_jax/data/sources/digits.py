"""The digits that come with scikit-learn."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import override

from supsup_jax.data.arrays import Dataset, Samples
from supsup_jax.data.sources.base import Source


@dataclass(frozen=True)
class Digits(Source):
    """Handwritten digits that come with scikit-learn: 1,797 images of 8 × 8, 10 classes.

    Every fifth image is for testing. Nothing is read from disk and nothing downloaded.
    """

    name: ClassVar[str] = "digits"
    needs_folder: ClassVar[bool] = False

    @override
    def load(self, folder: Path | None = None) -> Dataset:
        from sklearn.datasets import load_digits as load

        images, labels = load(return_X_y=True)
        # The published values are 0 to 16.
        images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        labels = labels.astype(np.int32)
        test = np.arange(len(labels)) % 5 == 4
        scaled = images[~test] / 255
        train, test_split = (Samples(images[rows], labels[rows]) for rows in (~test, test))
        return Dataset(train, test_split, mean=(float(scaled.mean()),), std=(float(scaled.std()),))
