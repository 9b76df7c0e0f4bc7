"""Lists of images in folders that hold one folder of images per class."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from supsup_jax.data.images import Files
from supsup_jax.errors import UserError, warn

ENDINGS = (".jpeg", ".jpg", ".png")

_OF_SYSTEMS = (
    "@eadir",
    "@recycle",
    "@tmp",
    "#recycle",
    "#snapshot",
    "__macosx",
    "__pycache__",
    "$recycle.bin",
    "lost+found",
    "system volume information",
)
"""Folders that operating systems and archives create, in lower case. Hidden files and folders are skipped as well."""

_WITHIN = "images"
"""Folder of a class's images within the class's folder, as in TinyImageNet."""

_SHOWN = 3

Split = tuple[Files, Int32[np.ndarray, " images"]]
"""Image files, and for each the position of its class in sorted order."""


class readable:  # noqa: N801 - a context manager
    """Turn errors from listing folders into a `UserError` with the folder's path."""

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise UserError(f"{error.filename} cannot be read ({error.strerror}); make it readable") from error


def read(
    folder: Path,
    splits: tuple[str, str],
    classes_of: Callable[[Path, list[str]], dict[str, str]] | None = None,
    names: str | None = None,
) -> list[Split]:
    """List the images of a training and a test folder in torchvision's layout, without opening them.

    Files and folders of operating systems are skipped.

    Args:
        folder: folder that holds the splits.
        splits: the names of their folders.
        classes_of: function that returns the class of each test image by file name, for test images in one folder; by
            default such a folder is an error.
        names: regular expression for the full names of class folders. If it matches any folder, other folders are
            skipped.

    Returns:
        The training and the test images.

    Raises:
        UserError: if the splits have different classes, or a class has no images.
        OSError: if a folder cannot be read.
    """
    train, test = (folder / split for split in splits)
    classes = {split: _named(split, class_folders(split), names) for split in (train, test)}
    if classes_of is not None and not classes[test] and (images := _images(test)):
        return [_listed(train, classes[train]), _in_one_folder(test, images, classes[train], classes_of)]
    for split in (train, test):
        if not classes[split] and _images(split):
            raise UserError(
                f"{split} has its images in one folder, so their classes are unknown; expected a folder of images "
                "for each class: sort them into such folders, or name another folder"
            )
    if differs := sorted(set(classes[train]) ^ set(classes[test])):
        lacking, other = (train, test) if differs[0] in classes[test] else (test, train)
        raise UserError(
            f"{lacking} has no folder {differs[0]}, but {other} has; expected the same classes in both, each a folder "
            "of images: add it, or name another folder, with links to the classes that both have"
        )
    if not classes[train]:
        raise UserError(f"{train} and {test} are empty; expected a folder with images for each class: add them")
    return [_listed(split, classes[split]) for split in (train, test)]


def class_folders(split: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, without those of operating systems."""
    names = [entry.name for entry in os.scandir(split) if not _is_of_system(entry.name) and entry.is_dir()]
    return sorted(names)


def _named(split: Path, folders: list[str], pattern: str | None) -> list[str]:
    """Return the folders whose names match the pattern, or all of them if none does."""
    classes = [name for name in folders if pattern and re.fullmatch(pattern, name)]
    if classes and (others := [name for name in folders if name not in classes]):
        warn(f"{split}: names that are not classes, skipped: {_shortened(others)}")
    return classes or folders


def is_picture(name: str, endings: tuple[str, ...] = ENDINGS) -> bool:
    """Return whether a file name is that of a picture. Files such as ._a.png, which macOS writes, are not pictures."""
    return name.lower().endswith(endings) and not name.startswith(".")


def _is_of_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def _images(folder: Path) -> list[str]:
    return sorted(filter(is_picture, os.listdir(folder)))


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _listed(split: Path, classes: list[str]) -> Split:
    """Return the images of classes that have folders."""
    with ThreadPoolExecutor() as threads:  # a network disk is slow for each of a thousand folders
        of_class = list(threads.map(partial(_paths, split), classes))
    paths = np.array([os.fsencode(path) for paths in of_class for path in paths])
    return Files(split, paths), np.repeat(np.arange(len(of_class), dtype=np.int32), list(map(len, of_class)))


def _in_one_folder(
    split: Path, names: list[str], classes: list[str], classes_of: Callable[[Path, list[str]], dict[str, str]]
) -> Split:
    """Return images of one folder, in the order that they would have in folders of their classes."""
    found = classes_of(split, names)
    labels = {name: label for label, name in enumerate(classes)}
    if others := sorted(set(found.values()) - set(labels)):
        warn(f"{split} has images of {_shortened(others)}, which have no training images; skipped")
    rows = sorted((labels[found[name]], name) for name in names if found[name] in labels)
    if lacking := sorted(set(classes) - set(found.values())):
        raise UserError(f"{split} has no image of {_shortened(lacking)}; add images of all training classes")
    paths = np.array([os.fsencode(name) for _, name in rows])
    return Files(split, paths), np.array([label for label, _ in rows], np.int32)


def _paths(split: Path, name: str) -> list[str]:
    """Return the sorted paths of a class's images, which are in the class's folder or in a folder images within it."""
    paths = [f"{name}/{image}" for image in _images(split / name)]
    if not paths and (split / name / _WITHIN).is_dir():
        paths = [f"{name}/{_WITHIN}/{image}" for image in _images(split / name / _WITHIN)]
    if not paths:
        raise UserError(
            f"{split / name} has no images; expected files that end in {', '.join(ENDINGS)}: add the class's images, "
            "or name another folder, with links to the other classes"
        )
    return paths
