"""Variables that choose a platform which this machine does not have: one line that names them, and nothing made."""

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
    ("JAX_PLATFORMS", "cuda,cpu"),  # last: JAX opens the CPU, once for all
]
PROBE = """
import json, os, sys, jax
from supsup_jax import UserError
from supsup_jax.system import platforms
said = []
for name, value in json.loads(sys.argv[1]):
    os.environ[name] = value
    before = jax.config.values[name.lower()]
    jax.config.update(name.lower(), value)
    try:
        platforms.check()
        said.append(None)
    except UserError as error:
        said.append(str(error))
    jax.config.update(name.lower(), before)
    del os.environ[name]
json.dump(said, sys.stdout)
"""


def environment(**variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_PLATFORM")}
    return kept | {"PYTHONPATH": str(ROOT)} | variables


def ended(*arguments, cwd, **variables):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment(**variables), capture_output=True, text=True, cwd=cwd)


def test_every_choice_that_is_not_here_is_one_line_that_names_it(tmp_path):
    result = ended("-c", PROBE, json.dumps(CHOICES), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for (name, value), said in zip(CHOICES, json.loads(result.stdout), strict=True):
        assert said and said.startswith(f"{name}={value}: ") and "\n" not in said, (name, value, said)
        assert said.endswith("unset it, or set it to cpu")


COMMANDS = [
    ("JAX_PLATFORMS", [ROOT / "experiments/quickstart.py", "--num-tasks", 1, "--data", "d", "--log-dir", "r"]),
    ("JAX_PLATFORM_NAME", [ROOT / "experiments/quickstart.py", "--seeds", 2, "--data", "d", "--log-dir", "r"]),
    ("JAX_PLATFORMS", ["-m", "supsup_jax", "show", ROOT / "tests/stored/format-2-SupSup"]),
]


@pytest.mark.parametrize(("variable", "arguments"), thorough_but(COMMANDS[:1], COMMANDS))
def test_a_command_on_a_machine_without_it_ends_with_status_2(tmp_path, variable, arguments):
    result = ended(*arguments, cwd=tmp_path, **{variable: "cuda"})
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {variable}=cuda: ") and result.stderr.count("\n") == 1, result.stderr
    assert not list(tmp_path.iterdir())


def test_a_library_that_is_not_there_names_its_variable(monkeypatch):
    def fail():
        raise RuntimeError("INTERNAL: Failed to open /nowhere.so")

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr(platforms, "_named", lambda flag: [])
    monkeypatch.setenv("PJRT_NAMES_AND_LIBRARY_PATHS", "own:/nowhere.so")
    with pytest.raises(UserError, match=r"PJRT_NAMES_AND_LIBRARY_PATHS=own:/nowhere\.so: INTERNAL: Failed to open"):
        platforms.check()


def test_other_errors_keep_their_traceback():
    for kind in (AssertionError, ValueError, RuntimeError):
        with pytest.raises(kind, match="of the library"), launch.ends_in_one_line():
            raise kind("of the library")


def test_a_process_that_has_computed_before_keeps_its_devices(monkeypatch):
    before = jax.devices()
    monkeypatch.setattr(devices.backend, "cores", lambda: len(before) + 1)
    devices.use_all_cores()
    assert jax.devices() == before
