"""Variables that select a platform which this machine does not have: one line that names them, and no files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from helpers.tiers import thorough_but
from supsup_jax import UserError
from supsup_jax.cli import launch
from supsup_jax.system import devices, platforms

ROOT = Path(__file__).parents[2]
CHOICES = [
    *(("JAX_PLATFORMS", value) for value in ("cuda", "gpu", "tpu", "rocm", "nonsense", ",", " cpu")),
    *(("JAX_PLATFORM_NAME", value) for value in ("cuda", "tpu", "nonsense")),
    *(("JAX_DEFAULT_DEVICE", value) for value in ("gpu", "tpu")),
    ("JAX_PLATFORMS", "cuda,cpu"),  # last, since JAX then initialises the CPU for the whole process
]
PROBE = """
import json, os, sys, jax
from supsup_jax import UserError
from supsup_jax.system import platforms
messages = []
for name, value in json.loads(sys.argv[1]):
    os.environ[name] = value
    before = jax.config.values[name.lower()]
    jax.config.update(name.lower(), value)
    try:
        platforms.check()
        messages.append(None)
    except UserError as error:
        messages.append(str(error))
    jax.config.update(name.lower(), before)
    del os.environ[name]
json.dump(messages, sys.stdout)
"""


def environment(**variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_PLATFORM")}
    return kept | {"PYTHONPATH": str(ROOT)} | variables


def ended(*arguments, cwd, **variables):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment(**variables), capture_output=True, text=True, cwd=cwd)


def test_each_unavailable_platform_gives_one_line_with_its_variable(tmp_path):
    result = ended("-c", PROBE, json.dumps(CHOICES), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for (name, value), message in zip(CHOICES, json.loads(result.stdout), strict=True):
        assert message and message.startswith(f"{name}={value}: ") and "\n" not in message, (name, value, message)
        assert message.endswith("unset it, or set it to cpu")


COMMANDS = [
    ("JAX_PLATFORMS", [ROOT / "experiments/quickstart.py", "--num-tasks", 1, "--data", "d", "--log-dir", "r"]),
    ("JAX_PLATFORM_NAME", [ROOT / "experiments/quickstart.py", "--seeds", 2, "--data", "d", "--log-dir", "r"]),
    ("JAX_PLATFORMS", ["-m", "supsup_jax", "show", ROOT / "tests/stored/format-2-SupSup"]),
]


@pytest.mark.parametrize(("variable", "arguments"), thorough_but(COMMANDS[:1], COMMANDS))
def test_a_command_without_the_platform_exits_with_status_2(tmp_path, variable, arguments):
    result = ended(*arguments, cwd=tmp_path, **{variable: "cuda"})
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {variable}=cuda: ") and result.stderr.count("\n") == 1, result.stderr
    assert not list(tmp_path.iterdir())


def test_an_error_names_the_variable_of_a_missing_library(monkeypatch):
    def fail():
        raise RuntimeError("INTERNAL: Failed to open /nowhere.so")

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr(platforms, "_named", lambda flag: [])
    monkeypatch.setenv("PJRT_NAMES_AND_LIBRARY_PATHS", "own:/nowhere.so")
    with pytest.raises(UserError, match=r"PJRT_NAMES_AND_LIBRARY_PATHS=own:/nowhere\.so: INTERNAL: Failed to open"):
        platforms.check()


REJECTED = [("JAX_DEFAULT_DEVICE", "cuda:0"), ("JAX_NUM_CPU_DEVICES", "two"), ("JAX_ENABLE_X64", "maybe")]


@pytest.mark.parametrize(("variable", "value"), thorough_but(REJECTED[:1], REJECTED))
def test_values_that_jax_rejects_at_import_give_one_line(tmp_path, variable, value):
    result = ended("-m", "supsup_jax", "show", "x", cwd=tmp_path, **{variable: value})
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {variable}={value}: ") and result.stderr.count("\n") == 1, result.stderr


def test_other_errors_keep_their_traceback():
    for kind in (AssertionError, ValueError, RuntimeError):
        with pytest.raises(kind, match="of the library"), launch.errors_in_one_line():
            raise kind("of the library")


def test_an_initialised_process_keeps_its_devices(monkeypatch):
    before = jax.devices()
    monkeypatch.setattr(devices.backend, "cores", lambda: len(before) + 1)
    devices.use_all_cores()
    assert jax.devices() == before
