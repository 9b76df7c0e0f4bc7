"""Reads folders that another process may be writing to."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from supsup_jax.errors import UserError

Read = TypeVar("Read")

_PATIENCE = 10.0
"""Seconds after which folders that keep changing are not read again."""

_PAUSES = (0.05, 0.2)
"""Seconds to wait before reading unchanged folders again: network file systems update listings late."""


def read_stable(read: Callable[[], Read], folders: Sequence[Path]) -> Read:
    """Return what a function reads from folders; call it again if it fails because another process changed them.

    Args:
        read: returns the result, or raises `UserError` or `OSError`; it is called without a lock.
        folders: the folders that it reads; changes to their direct content are noticed, but not deeper ones.

    Raises:
        UserError: the last one that `read` raised.
        OSError: the last one that `read` raised.
    """
    until, pauses = time.monotonic() + _PATIENCE, list(_PAUSES)
    while True:
        before = [_state(folder) for folder in folders]
        try:
            return read()
        except (UserError, OSError):
            if [_state(folder) for folder in folders] != before and time.monotonic() < until:
                pause = _PAUSES[0]
            elif pauses:
                pause = pauses.pop(0)
            else:
                raise
        time.sleep(pause)


def _state(folder: Path) -> Any:
    """Return a value that changes with the folder; names are included, since timestamps may be as coarse as seconds."""
    try:
        status = folder.stat()
        return status.st_ino, status.st_mtime_ns, sorted(os.listdir(folder))
    except OSError:
        return None
