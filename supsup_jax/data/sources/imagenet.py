"""Source for ImageNet."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from supsup_jax.data import imagenet
from supsup_jax.data.arrays import NORMALISATION, Dataset, Samples
from supsup_jax.data.sources.base import Source
from supsup_jax.errors import UserError


@dataclass(frozen=True)
class ImageNet(Source):
    """Photographs: 1.28 million training and 50,000 validation images of any size in colour, 1,000 classes.

    Read from torchvision's layout (`imagenet/train|val/<wnid>`), Kaggle's (`ILSVRC/Data/CLS-LOC`, with
    `LOC_val_solution.csv` beside `ILSVRC`), or a folder that TFDS prepared as array_record. The images stay on disk and
    are decoded for each task. ImageNet cannot be downloaded freely.

    Attributes:
        image_size: height and width of the images that the network sees, in pixels.
        cache_size: shorter side to which images are reduced once, before training crops them, in pixels; by default
            256/224 of `image_size`.
    """

    name: ClassVar[str] = "imagenet"
    on_disk: ClassVar[bool] = True

    image_size: int = 224
    cache_size: int | None = None

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise UserError(f"ImageNet: image_size {self.image_size} must be at least 1")
        if self.cache_size is not None and self.cache_size < 1:
            raise UserError(f"ImageNet: cache_size {self.cache_size} must be at least 1")

    @property
    def shorter_side(self) -> int:
        """Shorter side to which images are reduced, in pixels."""
        return self.cache_size or round(self.image_size * 256 / 224)

    @override
    def load(self, folder: Path) -> Dataset:
        train, test = imagenet.read(folder, self.image_size)
        return Dataset(Samples(*train), Samples(*test), *NORMALISATION["imagenet"])

    @override
    def is_present(self, folder: Path) -> bool:
        return imagenet.is_present(folder)
