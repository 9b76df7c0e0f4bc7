"""Files that are written whole or not at all."""

import contextlib
import os
from pathlib import Path


def write(path: Path, content: str | bytes | bytearray) -> None:
    """Replaces a file, or makes it; several processes may do so at once.

    Raises:
        OSError: if it cannot be written; then it is as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


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
