"""How far something is that takes long, in a line every ten seconds."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from supsup_jax.system.words import duration

_EVERY = 10.0
"""Seconds from one line to the next; what takes no longer says nothing."""

Part = TypeVar("Part")


def to_stderr(line: str) -> None:
    """Prints a line where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Says every ten seconds how much of some work is done, and how long the rest takes.

    Args:
        what: the work, such as "evaluating".
        total: how many things it has to do.
        things: what they are, such as "tasks".
        done: how many of them were done before.
        say: takes a line; by default it is printed to stderr.
    """

    def __init__(self, what: str, total: int, things: str, done: int = 0, say: Callable[[str], None] = to_stderr):
        self._what, self._total, self._things, self._say = what, total, things, say
        self._before = self._done = done
        self._started = self._said = time.monotonic()

    def add(self, count: int = 1) -> None:
        """Counts further things as done."""
        self._done += count
        now = time.monotonic()
        if now - self._said < _EVERY or self._done >= self._total:
            return
        self._said = now
        left = (now - self._started) / (self._done - self._before) * (self._total - self._done)
        self._say(f"{self._what}: {self._done:,} of {self._total:,} {self._things} done, about {duration(left)} left")

    def of(self, parts: Iterable[Part], size: Callable[[Part], int] = lambda part: 1) -> Iterator[Part]:
        """Yields parts of the work as they come, and counts each as done.

        Args:
            parts: parts, computed as they are asked for.
            size: how many things a part is.
        """
        for part in parts:
            yield part
            self.add(size(part))
