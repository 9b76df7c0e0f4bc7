"""Source for TinyImageNet."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from supsup_jax.checks import check_counts
from supsup_jax.data import folders
from supsup_jax.data.arrays import Dataset
from supsup_jax.data.imagenet import WNID
from supsup_jax.data.sources.base import Source, dataset_of
from supsup_jax.data.sources.folders import decoded
from supsup_jax.errors import UserError, reason

_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_PLACES = ("tiny-imagenet-200", "tinyimagenet/tiny-imagenet-200", "tinyimagenet", "tiny-imagenet", "TinyImageNet", ".")
_ANNOTATIONS = "val_annotations.txt"


@dataclass(frozen=True)
class TinyImageNet(Source):
    """Photographs: 100,000 training and 10,000 validation images of 64 × 64 in colour, 200 classes.

    Read from the unpacked archive tiny-imagenet-200.zip: `train/<wnid>/images`, and `val/images` with
    `val/val_annotations.txt`. The validation images may also be sorted into `val/<wnid>`. All images are decoded into
    memory, which takes 1.4 GB. The archive is not downloaded automatically.

    Attributes:
        image_size: height and width of the images that the network sees, in pixels.

    Raises:
        UserError: if a folder is missing, or an image cannot be read.
    """

    name: ClassVar[str] = "tinyimagenet"

    image_size: int = 64

    def __post_init__(self) -> None:
        check_counts(self, "image_size")

    @override
    def load(self, folder: Path) -> Dataset:
        root = _root(folder)
        if root is None:
            raise UserError(
                f"{folder / _PLACES[0]} lacks train or val; unpack {_URL} into {folder}, or name the folder that has "
                "TinyImageNet with --data"
            )
        test = "val/images" if (root / "val/images").is_dir() else "val"
        with folders.readable():
            splits = folders.read(root, ("train", test), _classes, WNID)
        train, held_out = ((decoded(files, self.image_size, 3), labels) for files, labels in splits)
        return dataset_of(train, held_out)

    @override
    def is_present(self, folder: Path) -> bool:
        return _root(folder) is not None


def _root(folder: Path) -> Path | None:
    """Return the folder that has the data set; a folder of other classes, such as ImageNet's, does not."""
    roots = (folder / place for place in _PLACES)
    return next((root for root in roots if (root / "train").is_dir() and (root / "val").is_dir()), None)


def _classes(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the class of each validation image, by file name.

    Raises:
        UserError: if the table of classes is missing or damaged, or lacks an image.
    """
    table = folder.parent / _ANNOTATIONS
    try:
        rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
        found = {row[0]: row[1] for row in rows}
    except (OSError, ValueError, IndexError) as error:
        raise UserError(
            f"{table} cannot be read ({reason(error)}); expected a line with the file name and the class of each "
            f"validation image: get it from {_URL}"
        ) from error
    if unknown := [name for name in names if name not in found]:
        raise UserError(f"{table} has no class for {unknown[0]}; get it from {_URL}, or remove the image")
    return {name: found[name] for name in names}
