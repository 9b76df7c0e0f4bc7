"""Locks on file systems without `flock`, stale locks, and locks that are never released."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import filelock
import pytest

from supsup_jax import UserError
from supsup_jax.runs import records, shared_table
from supsup_jax.system import atomic, backend, locks

REFUSALS = [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EPERM]


@pytest.fixture(params=REFUSALS, ids=errno.errorcode.get)
def no_locks(request, monkeypatch):
    """A file system that refuses `flock`."""

    def refuse(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", refuse)


def dead_pid():
    """Return the id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def in_thread(call):
    """Return the error that a call raises in another thread, which does not hold this thread's locks, or `None`."""
    raised = []

    def run():
        try:
            call()
        except UserError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def take(folder):
    with atomic.locked(folder):
        pass


def test_without_flock_a_folder_is_locked_and_then_unchanged(no_locks, tmp_path):
    (tmp_path / ".lock").touch()  # a stale file, copied with the folder
    with atomic.locked(tmp_path), atomic.locked(tmp_path):
        message = str(in_thread(lambda: take(tmp_path)))
        for words in (str(tmp_path), f"in use by process {os.getpid()} on {socket.gethostname()}", "remove its lock"):
            assert words in message
        assert message.endswith(str(tmp_path / ".lock.held"))
    assert in_thread(lambda: take(tmp_path)) is None
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("swaps", [True, False], ids=["swaps files", "cannot swap files, as NFS"])
def test_the_lock_of_a_dead_process_on_this_host_is_taken_over(monkeypatch, tmp_path, swaps):
    monkeypatch.setattr(locks, "are_supported", lambda file: False)
    if not swaps:
        monkeypatch.setattr("filelock._soft.exchange_names", lambda *_: False, raising=False)
    (tmp_path / ".lock.held").write_text(f"{dead_pid()}\n{socket.gethostname()}\n")
    take(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{pid}\nelsewhere\n", "{pid}\n", "", "x\ny\n"])
def test_an_error_names_a_lock_whose_process_may_be_alive(monkeypatch, tmp_path, content):
    monkeypatch.setattr(locks, "are_supported", lambda file: False)
    lock = tmp_path / ".lock.held"
    lock.write_text(content.format(pid=dead_pid()))
    with pytest.raises(UserError, match=r"if that process is gone, remove its lock .*\.lock\.held") as error:
        take(tmp_path)
    assert ("on elsewhere;" in str(error.value)) == ("elsewhere" in content)
    lock.unlink()
    take(tmp_path)


def test_with_flock_an_error_names_the_process_too(tmp_path):
    with atomic.locked(tmp_path):
        message = str(in_thread(lambda: take(tmp_path)))
    assert f"in use by process {os.getpid()} on {socket.gethostname()}; wait for it" in message
    assert message.endswith(str(tmp_path / ".lock"))
    take(tmp_path)


def test_a_locked_shared_table_is_reported_within_two_seconds(monkeypatch, tmp_path, capfd):
    table, lock = tmp_path / "results.csv", tmp_path / ".results.csv.lock"
    task = records.TaskResult(0, "2020-12-06 12:00:00", 0.25, 0.9371, 0.94, 2.5)
    monkeypatch.setattr(shared_table, "_LOCK_TIMEOUT", 1.1)
    with filelock.FileLock(lock):
        started = time.monotonic()
        error = in_thread(lambda: shared_table.append_results(table, tmp_path, "a", [task]))
        assert time.monotonic() - started < 2
    assert "waiting: " in capfd.readouterr().err and f"remove its lock {lock}" in str(error)
    assert not table.exists()
    assert in_thread(lambda: shared_table.append_results(table, tmp_path, "a", [task])) is None
    assert table.exists()


def test_a_stale_lock_file_does_not_lock_a_shared_table(no_locks, tmp_path):
    (tmp_path / ".results.csv.lock").touch()
    shared_table.append_results(tmp_path / "results.csv", tmp_path, "a", [])
    assert (tmp_path / "results.csv").exists()


@pytest.fixture
def without_cache(monkeypatch):
    """JAX without a configured cache; returns the changes to its configuration, which are recorded and not applied."""
    changes = {}
    config = SimpleNamespace(values={}, update=changes.__setitem__)
    monkeypatch.setattr(backend, "jax", SimpleNamespace(config=config))
    return changes


def test_a_cache_that_cannot_be_locked_is_not_used(no_locks, without_cache, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend.keep_compiled()
    assert without_cache == {"jax_enable_compilation_cache": False}
    warning = capfd.readouterr().err
    assert warning.count("\n") == 1 and "has no locks); set JAX_COMPILATION_CACHE_DIR" in warning


def test_a_cache_that_stays_locked_is_not_used(without_cache, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend.keep_compiled()
    assert without_cache["jax_compilation_cache_max_size"] == 2**30
    without_cache.clear()
    monkeypatch.setattr(backend, "_CACHE_PATIENCE", 0.1)
    (lock,) = tmp_path.rglob(".lockfile")
    with filelock.FileLock(lock):
        in_thread(backend.keep_compiled)
    assert without_cache == {"jax_enable_compilation_cache": False}
    assert f"remove its lock {lock}" in capfd.readouterr().err


NO_FLOCK = """
#include <errno.h>
int flock(int descriptor, int operation) { errno = ENOSYS; return -1; }
"""

START = """
import sys, time, pathlib
from supsup_jax.system import atomic, backend
started = time.monotonic()
backend.keep_compiled()
import jax
jax.jit(lambda x: x + 1)(1.0)
with atomic.locked(pathlib.Path(sys.argv[1])):
    print(time.monotonic() - started)
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no compiler to make a library without flock")
def test_without_flock_a_process_starts_without_delay(tmp_path):
    (tmp_path / "no_flock.c").write_text(NO_FLOCK)
    library = tmp_path / "no_flock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "no_flock.c"], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    (tmp_path / ".lock").touch()
    command = [sys.executable, "-c", START, str(tmp_path)]
    ended = subprocess.run(
        command, env=environment | {"LD_PRELOAD": str(library)}, capture_output=True, text=True, check=True
    )
    assert ended.stderr.count("\n") == 1 and "compiled programs are not kept" in ended.stderr
    assert float(ended.stdout) < 20  # JAX would wait ten seconds for each program
