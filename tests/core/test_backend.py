import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from supsup_jax.system import backend, devices
from supsup_jax.system.backend import num_bytes


def test_num_bytes_sums_the_sizes_of_all_arrays():
    assert num_bytes({"a": np.zeros((3, 2), np.float32), "b": jax.ShapeDtypeStruct((5,), np.uint8)}) == 29


@pytest.mark.parametrize("offset", [0, 16])
def test_cpu_devices_use_aligned_arrays_without_a_copy(offset):
    array = np.arange(4096 + 64, dtype=np.uint8)
    start = -array.ctypes.data % 64 + offset
    array = array[start : start + 3000].reshape(60, 50)
    (aligned,) = backend.aligned([array])
    np.testing.assert_array_equal(aligned, array)
    shards = devices.replicate(aligned).addressable_shards
    assert [shard.data.unsafe_buffer_pointer() for shard in shards] == [aligned.ctypes.data] * len(jax.devices())
    with pytest.raises(ValueError, match="read-only"):
        aligned[0] = 1


def compiled_files(cache: Path, **variables: str) -> list[Path]:
    """Return the files that a process with a compilation cache leaves in the user's cache; it must print nothing."""
    program = (
        "import jax; from supsup_jax.system import backend; backend.keep_compiled(); jax.jit(lambda x: x + 1)(1.0)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(cache), **variables}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
    return sorted(cache.rglob("jit_*")) if cache.is_dir() else []


def test_lapack_has_one_thread_unless_the_environment_sets_more(monkeypatch):
    for given, expected in ((None, "1"), ("3", "3")):
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        if given:
            monkeypatch.setenv("OPENBLAS_NUM_THREADS", given)
        backend.use_one_blas_thread()
        assert os.environ["OPENBLAS_NUM_THREADS"] == expected


def test_compiled_programs_are_cached_for_the_next_process(tmp_path):
    first = compiled_files(tmp_path)
    assert first and compiled_files(tmp_path) == first


@pytest.mark.thorough
def test_a_half_written_compiled_program_is_compiled_and_kept_again(tmp_path):
    """A killed process can leave a partly written file in the compilation cache."""
    first = compiled_files(tmp_path)
    half = next(path for path in first if path.name.endswith("-cache"))
    whole = half.read_bytes()
    half.write_bytes(whole[:100])  # partly written; the file with its time of use is written afterwards
    half.with_name(half.name.removesuffix("cache") + "atime").unlink()
    assert compiled_files(tmp_path) == first
    assert half.stat().st_size > 100


def test_a_cache_that_the_user_names_is_kept(tmp_path):
    assert not compiled_files(tmp_path / "users", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "named"))


def test_without_a_cache_folder_nothing_is_cached(tmp_path):
    (tmp_path / "file").touch()
    assert not compiled_files(tmp_path / "file")
