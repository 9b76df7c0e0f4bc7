"""Reads folders to which another process may write meanwhile."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from supsup_jax.errors import UserError

Read = TypeVar("Read")

_PATIENCE = 10.0
"""Seconds in which folders that change again and again are read again."""

_PAUSES = (0.05, 0.2)
"""Seconds before folders are read again that have not changed: network file systems list late."""


def settled(read: Callable[[], Read], folders: Sequence[Path]) -> Read:
    """What a function reads from folders, called again where it fails since another process has changed them.

    Args:
        read: gives the result, or raises `UserError` or `OSError`; it is called without a lock.
        folders: where it reads; what lies directly in one of them, but not deeper, counts as a change.

    Raises:
        UserError: the last one that `read` raised.
        OSError: the same.
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
    """Differs where a folder has changed; file systems count time in milliseconds or seconds, so names tell it too."""
    try:
        status = folder.stat()
        return status.st_ino, status.st_mtime_ns, sorted(os.listdir(folder))
    except OSError:
        return None
