"""Classes of ImageNet's validation images that lie in one folder, as they are published."""

import csv
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from supsup_jax.errors import UserError, reason

_TABLE = "LOC_val_solution.csv"
_ANNOTATIONS = "Annotations/CLS-LOC/val"
_NAME = re.compile(rb"<name>\s*(n\d{8})\s*</name>")
_MAX_LEVELS = 5


def classes(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the class of each image of a folder, by file name.

    They are looked up in Kaggle's `LOC_val_solution.csv`, which may be in the folder or up to five levels above it, or
    else in the annotations `ILSVRC/Annotations/CLS-LOC/val`.

    Args:
        folder: folder of the images, such as `ILSVRC/Data/CLS-LOC/val`.
        names: file names of the images.

    Raises:
        UserError: if neither is found, it is damaged, or it has no class for an image.
    """
    above = [folder, *folder.absolute().parents[:_MAX_LEVELS]]
    table = next((place / _TABLE for place in above if (place / _TABLE).is_file()), None)
    annotations = next((place / _ANNOTATIONS for place in above if (place / _ANNOTATIONS).is_dir()), None)
    if table is None and annotations is None:
        raise UserError(
            f"{folder} has its images in one folder, so their classes are unknown; put Kaggle's {_TABLE} beside "
            f"it, or sort them into {folder}/<class> (valprep.sh of soumith/imagenetloader.torch does)"
        )
    if table is not None:
        found = _in_table(table)
        of_image = {name: found.get(name.partition(".")[0], "") for name in names}
    else:
        assert annotations is not None
        with ThreadPoolExecutor(16) as threads:  # a network disk is slow for each of 50,000 files
            read = threads.map(lambda name: _in_annotation(annotations / f"{name.partition('.')[0]}.xml"), names)
            of_image = dict(zip(names, read, strict=True))
    if unknown := [name for name, found in of_image.items() if not found]:
        raise UserError(
            f"{table or annotations} has no class for {unknown[0]} of {folder}, nor for {len(unknown) - 1} others; "
            "expected one for each image there"
        )
    return of_image


def _in_table(path: Path) -> dict[str, str]:
    """Return the class of each image: the first word of the table's expected prediction."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    except (OSError, ValueError, LookupError, AttributeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}); expected columns ImageId and PredictionString, as Kaggle has it"
        ) from error


def _in_annotation(path: Path) -> str:
    try:
        found = _NAME.search(path.read_bytes())
    except OSError:
        return ""
    return found[1].decode() if found else ""
