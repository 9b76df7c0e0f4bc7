"""Progress lines for long computations, one every ten seconds."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from supsup_jax.system.durations import duration

_INTERVAL = 10.0
"""Seconds between two lines; work that takes less time prints none."""

Part = TypeVar("Part")


def to_stderr(line: str) -> None:
    """Print a line to stderr, so that it does not mix with results on stdout."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Reports every ten seconds how much work is done, and the estimated remaining time.

    Args:
        work: the work, such as "evaluating".
        total: the number of things to process.
        things: their name, such as "tasks".
        done: how many of them were done before.
        say: takes a line; by default it is printed to stderr.
    """

    def __init__(self, work: str, total: int, things: str, done: int = 0, say: Callable[[str], None] = to_stderr):
        self._work, self._total, self._things, self._say = work, total, things, say
        self._before = self._done = done
        self._started = self._reported = time.monotonic()

    def add(self, count: int = 1) -> None:
        """Count further things as done."""
        self._done += count
        now = time.monotonic()
        if now - self._reported < _INTERVAL or self._done >= self._total:
            return
        self._reported = now
        remaining = (now - self._started) / (self._done - self._before) * (self._total - self._done)
        progress = f"{self._done:,} of {self._total:,} {self._things} done"
        self._say(f"{self._work}: {progress}, about {duration(remaining)} left")

    def track(self, parts: Iterable[Part], size: Callable[[Part], int] = lambda part: 1) -> Iterator[Part]:
        """Yield parts of the work, and count each as done once the next one is requested.

        Args:
            parts: the parts; an iterator that computes them lazily.
            size: returns the number of things in a part.
        """
        for part in parts:
            yield part
            self.add(size(part))
