"""Locks that processes take by files, also where the file system has none of its own.

Lustre without `-o flock` and NFS without its lock service refuse `flock`. There, a file that exists is the lock, which
a process that is killed leaves behind: filelock removes it where that process was on this host.
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

_AT_ONCE = 1.0
"""Seconds that a process waits for a lock without a word."""

_TAKING_OVER = 0.2
"""Seconds for a soft lock whose process is gone to be taken over."""


class LockedError(UserError):
    """A lock that another process has.

    Args:
        what: what it locks.
        file: the lock's file, which names the process.
    """

    def __init__(self, what: str, file: Path):
        super().__init__(
            f"{what} is in use by {_holder(file)}; wait for it; if that process is gone, remove its lock {file}"
        )


def are_supported(file: Path) -> bool:
    """Whether the file system has locks; makes the file where it does not exist.

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
        return error.errno in (errno.EACCES, errno.EAGAIN)  # another process has it
    finally:
        os.close(descriptor)
    return True


@contextlib.contextmanager
def held(file: Path, patience: float = 0.0, what: str = "") -> Iterator[None]:
    """Holds a lock; a thread that has it may ask for it again.

    Args:
        file: the lock's file; without locks of the file system `FILE.held` is the lock, since a file that was copied
            there, or left by `flock`, means nothing.
        patience: seconds to wait for another process. After one of them a line on stderr says for which.
        what: what it locks, for the message; by default the file.

    Raises:
        LockedError: if another process still has it.
        OSError: if the file cannot be written.
    """
    lock = _lock(file)
    if not _acquire(lock, min(patience, _AT_ONCE)):
        error = LockedError(what or str(file), Path(lock.lock_file))
        if patience <= _AT_ONCE:
            raise error
        to_stderr(f"waiting: {error}")
        if not _acquire(lock, patience - _AT_ONCE):
            raise LockedError(what or str(file), Path(lock.lock_file))
    try:
        yield
    finally:
        lock.release()


def _lock(file: Path) -> BaseFileLock:
    if are_supported(file):
        return FileLock(file, is_singleton=True)
    return SoftFileLock(file.with_name(f"{file.name}.held"), is_singleton=True)


def _acquire(lock: BaseFileLock, seconds: float) -> bool:
    """Whether a lock was acquired within some seconds."""
    file = Path(lock.lock_file)
    is_soft = isinstance(lock, SoftFileLock)
    try:
        # Older versions of filelock take over in a second try only.
        lock.acquire(timeout=max(seconds, _TAKING_OVER) if is_soft else seconds)
    except Timeout:
        return is_soft and _remove_left_over(file) and _acquire(lock, seconds)
    if not is_soft:  # filelock notes the same in a soft one
        with contextlib.suppress(OSError):  # the disk may be full
            file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
    return True


def _remove_left_over(file: Path) -> bool:
    """Removes a soft lock of a process on this host that is gone; filelock does not on NFS, which cannot swap files."""
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
    if aside.read_bytes() != content:  # and this is its lock
        aside.rename(file)
        return False
    aside.unlink()
    return True


def _holder(file: Path) -> str:
    """The process that a lock's file names."""
    try:
        process, host, *_ = file.read_text().splitlines()
    except (OSError, ValueError):  # older versions noted nothing
        return "another process"
    return f"process {process} on {host.partition('?')[0]}"  # filelock adds the namespace of a container
