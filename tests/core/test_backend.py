import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from supsup_jax.system import backend
from supsup_jax.system.backend import num_bytes


def test_bytes_are_those_of_the_arrays():
    assert num_bytes({"a": np.zeros((3, 2), np.float32), "b": jax.ShapeDtypeStruct((5,), np.uint8)}) == 29


def compiled_files(cache: Path, **more: str) -> list[Path]:
    """What a process leaves that keeps what it compiles, given the user's cache; it must print nothing."""
    program = (
        "import jax; from supsup_jax.system import backend; backend.keep_compiled(); jax.jit(lambda x: x + 1)(1.0)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(cache), **more}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
    return sorted(cache.rglob("jit_*")) if cache.is_dir() else []


def test_lapack_has_one_thread_unless_the_user_says_otherwise(monkeypatch):
    for said, kept in ((None, "1"), ("3", "3")):
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        if said:
            monkeypatch.setenv("OPENBLAS_NUM_THREADS", said)
        backend.use_one_blas_thread()
        assert os.environ["OPENBLAS_NUM_THREADS"] == kept


def test_what_is_compiled_is_kept_for_the_next_process(tmp_path):
    first = compiled_files(tmp_path)
    assert first and compiled_files(tmp_path) == first


@pytest.mark.thorough
def test_a_half_written_compiled_program_is_compiled_and_kept_again(tmp_path):
    """A process that is killed can leave a file of the compilation cache half written."""
    first = compiled_files(tmp_path)
    half = next(path for path in first if path.name.endswith("-cache"))
    whole = half.read_bytes()
    half.write_bytes(whole[:100])  # as far as it came; when it was used last would have followed
    half.with_name(half.name.removesuffix("cache") + "atime").unlink()
    assert compiled_files(tmp_path) == first
    assert half.stat().st_size > 100


def test_a_cache_that_the_user_names_is_left_as_it_is(tmp_path):
    assert not compiled_files(tmp_path / "users", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "named"))


def test_without_a_place_for_a_cache_nothing_is_kept(tmp_path):
    (tmp_path / "file").touch()
    assert not compiled_files(tmp_path / "file")
