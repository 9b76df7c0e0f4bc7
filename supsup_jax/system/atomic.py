"""Files that are written whole or not at all, and folders that one process at a time writes to."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from supsup_jax.system import locks


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a run's folder for this process; a thread that has it may ask for it again.

    Raises:
        LockedError: if another one has it.
    """
    with locks.held(folder / ".lock", what=str(folder)):
        yield


def write(path: Path, content: str | bytes | bytearray) -> None:
    """Replaces a file, or makes it; several processes may do so at once.

    Raises:
        OSError: if it cannot be written, with its name; then it is as it was.
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


def append(path: Path, text: str) -> None:
    """Adds to a file.

    Raises:
        OSError: if it cannot be written; then it is as it was.
    """
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, before)
        raise
