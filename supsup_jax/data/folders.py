"""Folders that hold a folder of images for each class."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from supsup_jax.data.images import Files
from supsup_jax.errors import UserError

_ENDINGS = (".jpeg", ".jpg", ".png")


def read(folder: Path, splits: tuple[str, str]) -> list[tuple[Files, Int32[np.ndarray, " images"]]]:
    """Lists the images of a training and a test folder in torchvision's layout, without opening them.

    Args:
        folder: holds the splits.
        splits: the names of their folders.

    Returns:
        For each split the image files, and the position of each one's class in sorted order.

    Raises:
        UserError: if the splits have different classes, or a class has no images.
        OSError: if a folder cannot be read.
    """
    train, val = (folder / split for split in splits)
    classes = {split: _classes(split) for split in (train, val)}
    if differs := sorted(set(classes[train]) ^ set(classes[val])):
        lacking, other = (train, val) if differs[0] in classes[val] else (val, train)
        raise UserError(
            f"{lacking} has no folder {differs[0]}, but {other} has; expected the same classes in both, each a folder "
            f"of images: add it, or remove {other / differs[0]}"
        )
    if not classes[train]:
        raise UserError(f"{train} and {val} are empty; expected a folder with images for each class: add them")

    def images(split: Path) -> tuple[Files, Int32[np.ndarray, " images"]]:
        with ThreadPoolExecutor() as threads:  # a network's disk takes its time for each of a thousand folders
            of_class = list(threads.map(partial(_paths, split, splits), classes[split]))
        paths = np.array([os.fsencode(path) for paths in of_class for path in paths])
        return Files(split, paths), np.repeat(np.arange(len(of_class), dtype=np.int32), list(map(len, of_class)))

    return [images(train), images(val)]


def _classes(split: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(split) if entry.is_dir() and not entry.name.startswith("."))


def _paths(split: Path, splits: tuple[str, str], wnid: str) -> list[str]:
    """The images of a class, sorted."""
    paths = sorted(f"{wnid}/{name}" for name in os.listdir(split / wnid) if name.lower().endswith(_ENDINGS))
    if not paths:
        raise UserError(
            f"{split / wnid} has no images; expected files that end in {', '.join(_ENDINGS)}: add the class's images, "
            f"or remove its folders from {' and '.join(splits)}"
        )
    return paths
