"""Atomic file writes, and exclusive access to run folders."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from supsup_jax.system import locks


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder for this process; a thread that holds the lock may enter again.

    Raises:
        LockedError: if another process holds the lock.
    """
    with locks.held(folder / ".lock", name=str(folder)):
        yield


def write(path: Path, content: str | bytes | bytearray) -> None:
    """Create or replace a file atomically; several processes may write the same file at once.

    Raises:
        OSError: if the file cannot be written. The error names the file, which is unchanged.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync(path: Path) -> None:
    """Write a file or the entries of a folder through to the disk; some file systems cannot sync folders.

    Raises:
        OSError: if the file cannot be written through. The error names it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if path.is_file():
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def append(path: Path, text: str) -> None:
    """Append text to a file.

    Raises:
        OSError: if the text cannot be written. The error names the file, which is unchanged.
    """
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.truncate(path, before)
        raise OSError(error.errno, error.strerror, str(path)) from error
