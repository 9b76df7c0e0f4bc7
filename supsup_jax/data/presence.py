"""Check that a data set is on disk, so that loading it downloads nothing."""

import os
from pathlib import Path

from supsup_jax.data.sources import SOURCES


def is_present(name: str, folder: str | Path) -> bool:
    """Return whether a data set is complete in the user's data folder, in a layout that its source reads.

    Args:
        name: one of `SOURCES`.
        folder: the user's data folder; `~` is expanded.
    """
    return name in SOURCES and SOURCES[name]().is_present(Path(os.path.expanduser(folder)))
