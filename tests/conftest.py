"""Two CPU devices, as the scripts have on two cores, also where there is a GPU; the real data where it is at hand.

SUPSUP_DATA names a folder with data sets as `--data` takes it, SUPSUP_GOLDEN one with arrays that the original
implementation computed. Tests that need them are skipped where they are not set.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)


def _folder(variable: str, what: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} does not name a folder with {what}")
    return Path(folder)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with real data sets."""
    return _folder("SUPSUP_DATA", "data sets")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict]:
    """Loads arrays or numbers that the original implementation computed, by file name."""
    folder = _folder("SUPSUP_GOLDEN", "arrays of the original implementation")

    def load(name: str) -> dict:
        if name.endswith(".json"):
            return json.loads((folder / name).read_text())
        with np.load(folder / name) as arrays:
            return dict(arrays)

    return load
