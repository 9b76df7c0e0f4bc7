"""Two CPU devices, as the scripts have on two cores, also where there is a GPU; the real data where it is at hand.

Most of the tests' time is XLA's, which compiles for them. So it does it quickly instead of well, and nothing twice.

SUPSUP_DATA names a folder with data sets as `--data` takes it, SUPSUP_GOLDEN one with arrays that the original
implementation computed. Tests that need them are skipped where they are not set.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest

pytest.register_assert_rewrite("helpers")  # so that its assertions explain themselves
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)


def pytest_configure(config: pytest.Config) -> None:
    """Set how programs are compiled, by this process and by those that its tests start, and check types and shapes.

    What is compiled is kept for two weeks, in the user's cache: without it, the tests take twice as long. Where another
    process has not written a file whole, JAX warns and compiles anew.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "supsup_jax/compiled-for-tests"
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another worker was faster
            if time.time() - file.stat().st_mtime > 14 * 86400:
                file.unlink()
    if "not thorough" not in config.option.markexpr:  # a third of the time of the default tier
        jaxtyping.install_import_hook("supsup_jax", "beartype.beartype")
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache entry")
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_disable_most_optimizations": True,
    }
    for option, value in options.items():
        jax.config.update(option, value)
        os.environ[option.upper()] = str(value)


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


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Calls a command in an empty folder, in this process; with what it printed, or its complaint and status."""
    from supsup_jax.__main__ import main  # not above: the types of its calls are to be checked

    monkeypatch.chdir(tmp_path)

    def call(*arguments, status=0):
        monkeypatch.setattr(sys, "argv", ["supsup_jax", *map(str, arguments)])
        capsys.readouterr()
        if not status:
            main()
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == status
        return capsys.readouterr().err

    return call
