"""Locks between processes, also on file systems that do not support locks.

Lustre without `-o flock` and NFS without its lock service reject `flock`. There, the existence of a file is the lock. A
killed process leaves the file behind; filelock removes it if that process was on this host.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout, has_fcntl

from supsup_jax.errors import UserError
from supsup_jax.system.progress import to_stderr

_SILENT_SECONDS = 1.0
"""Seconds that a process waits for a lock before it prints a line."""

_TAKEOVER_SECONDS = 0.2
"""Seconds to take over a soft lock whose process has ended."""


class LockedError(UserError):
    """Another process holds the lock.

    Args:
        name: the locked resource, for the message.
        file: the lock file, which names the process.
    """

    def __init__(self, name: str, file: Path):
        super().__init__(
            f"{name} is in use by {_holder(file)}; wait for it; if that process is gone, remove its lock {file}"
        )


def are_supported(file: Path) -> bool:
    """Return whether the file system supports locks; create the file if it does not exist.

    Raises:
        OSError: if the file cannot be opened.
    """
    if not has_fcntl:  # Windows
        return True
    import fcntl

    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)  # another process holds the lock
    finally:
        os.close(descriptor)
    return True


@contextlib.contextmanager
def held(file: Path, patience: float = 0.0, name: str = "") -> Iterator[None]:
    """Hold a lock; a thread that holds it may enter again.

    Args:
        file: the lock file. If the file system has no locks, `FILE.held` is used instead, since `file` may have been
            copied or left over from `flock`.
        patience: seconds to wait for another process. After one second a line on stderr names that process.
        name: the locked resource, for the message; by default the file.

    Raises:
        LockedError: if another process still holds the lock.
        OSError: if the file cannot be written.
    """
    lock = _lock(file)
    if not _acquire(lock, min(patience, _SILENT_SECONDS)):
        error = LockedError(name or str(file), Path(lock.lock_file))
        if patience <= _SILENT_SECONDS:
            raise error
        to_stderr(f"waiting: {error}")
        if not _acquire(lock, patience - _SILENT_SECONDS):
            raise LockedError(name or str(file), Path(lock.lock_file))
    try:
        yield
    finally:
        lock.release()


def _lock(file: Path) -> BaseFileLock:
    if are_supported(file):
        return FileLock(file, is_singleton=True)
    return SoftFileLock(file.with_name(f"{file.name}.held"), is_singleton=True)


def _acquire(lock: BaseFileLock, seconds: float) -> bool:
    """Acquire a lock within some seconds and return whether that succeeded."""
    file = Path(lock.lock_file)
    is_soft = isinstance(lock, SoftFileLock)
    try:
        # Older versions of filelock take over only at the second attempt.
        lock.acquire(timeout=max(seconds, _TAKEOVER_SECONDS) if is_soft else seconds)
    except Timeout:
        return is_soft and _remove_stale(file) and _acquire(lock, seconds)
    if not is_soft:  # filelock writes the same into a soft lock
        with contextlib.suppress(OSError):  # the disk may be full
            file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
    return True


def _remove_stale(file: Path) -> bool:
    """Remove a soft lock whose process on this host has ended; filelock cannot on NFS, which cannot swap files."""
    try:
        content = file.read_bytes()
        process, host, *_ = content.decode().splitlines()
        if host != socket.gethostname():
            return False
        os.kill(int(process), 0)
    except ProcessLookupError:
        pass
    except (OSError, ValueError, OverflowError):
        return False
    else:
        return False
    aside = file.with_name(f"{file.name}.{os.getpid()}.unfinished")
    try:
        file.rename(aside)
    except OSError:  # another process was faster
        return False
    if aside.read_bytes() != content:  # the file is that process's lock
        aside.rename(file)
        return False
    aside.unlink()
    return True


def _holder(file: Path) -> str:
    """Return the process that a lock file names."""
    try:
        process, host, *_ = file.read_text().splitlines()
    except (OSError, ValueError):  # older versions wrote nothing into it
        return "another process"
    return f"process {process} on {host.partition('?')[0]}"  # filelock adds the namespace of a container
