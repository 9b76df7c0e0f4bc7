"""Configures the tests: two CPU devices, also on machines with a GPU, and folders of real data.

Most of the tests' time is XLA's compile time. Programs are therefore compiled without most optimizations, and cached.

SUPSUP_DATA names a folder of data sets as in `--data`, SUPSUP_GOLDEN a folder of arrays that the original
implementation computed. Without them, tests that need them are skipped.
"""

import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.register_assert_rewrite("helpers")  # so that failed assertions show their values
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)


def pytest_configure(config: pytest.Config) -> None:
    """Set compiler options for this process and for processes that tests start.

    Compiled programs are cached for two weeks in the user's cache: without it, the tests take twice as long. If another
    process has only partly written a file, JAX warns and compiles again.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "supsup_jax/compiled-for-tests"
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another worker has removed it
            if time.time() - file.stat().st_mtime > 14 * 86400:
                file.unlink()
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache entry")
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_disable_most_optimizations": True,
    }
    for option, value in options.items():
        jax.config.update(option, value)
        os.environ[option.upper()] = str(value)


@pytest.fixture(autouse=True)
def abandoned(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect what a test abandons where its own filter of warnings applies, not in a later test."""
    yield
    filters = [name for mark in request.node.iter_markers("filterwarnings") for name in mark.args]
    if any("PytestUnraisableExceptionWarning" in name for name in filters):
        gc.collect()


def _folder(variable: str, content: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} does not name a folder with {content}")
    return Path(folder)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder with real data sets."""
    return _folder("SUPSUP_DATA", "data sets")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict]:
    """Return a function that loads arrays or numbers of the original implementation by file name."""
    folder = _folder("SUPSUP_GOLDEN", "arrays of the original implementation")

    def load(name: str) -> dict:
        if name.endswith(".json"):
            return json.loads((folder / name).read_text())
        with np.load(folder / name) as arrays:
            return dict(arrays)

    return load


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command in an empty folder and returns stdout, or stderr if it fails."""
    from supsup_jax.__main__ import main  # imported late, so that its types are checked at run time

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
