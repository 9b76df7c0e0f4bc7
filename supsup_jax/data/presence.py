"""A check that a data set is on disk, so that loading it downloads nothing."""

import os
from pathlib import Path

from supsup_jax.data import cifar100, files, imagenet, mnist


def is_present(name: str, folder: str | Path) -> bool:
    """Whether a data set is complete in the user's data folder, in one of the layouts that its reader knows.

    Args:
        name: `"mnist"`, `"cifar100"`, `"imagenet"` or `"digits"`, which comes with scikit-learn.
        folder: where the user keeps data; `~` is expanded.
    """
    root = Path(os.path.expanduser(folder))
    match name:
        case "digits":
            return True
        case "mnist":
            places = [root / place for place in mnist._PLACES]
            has_files = any(all(mnist._find(place, file) for file in mnist._FILES) for place in places)
        case "cifar100":
            places = [root / place for place in cifar100._PLACES]
            has_files = any(
                (place / cifar100._ARCHIVE).is_file()
                or all((place / cifar100._FOLDER / split).is_file() for split in cifar100._SIZES)
                for place in places
            )
        case "imagenet":
            places = [root / place for place in imagenet._PLACES]
            has_files = any(all((place / split).is_dir() for split in imagenet._FOLDERS) for place in places)
        case _:
            return False
    prepared = imagenet._PREPARED if name == "imagenet" else name
    return has_files or files.find_prepared(root, prepared) is not None
