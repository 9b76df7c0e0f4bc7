"""Ctrl-C and SIGTERM: asked once, what goes on is finished and saved first; asked again, it ends at once.

What goes on is a chunk of tasks that are learned together, or some tasks of an evaluation. Who sends SIGTERM does not
wait for long: where that is not finished `SUPSUP_GRACE` seconds later (10 by default), the process ends without it. So
it loses that chunk, and nothing that was saved before; as if it were killed.
"""

import contextlib
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any

from supsup_jax.errors import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM)

GRACE = "SUPSUP_GRACE"
"""The environment variable with the seconds that what goes on may take after SIGTERM."""

_GRACE = 10.0  # SLURM follows SIGTERM with SIGKILL after 30 seconds, by default

# SLURM sends SIGTERM to a sweep and to its runs, and the sweep sends it to these: within so many seconds it is one.
_ECHO = 1.0

# How long a save may hold up an end.
_SAVING = 30.0

_saving = threading.Lock()


class Terminated(KeyboardInterrupt):
    """An end that SIGTERM asked for, as SLURM does before a preemption, and not Ctrl-C."""


def status_of(interrupt: KeyboardInterrupt) -> int:
    """The exit status of a process that ends so: 128 and the number of the signal, as shells have it."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


class Interruption:
    """What was asked so far.

    Attributes:
        times: how often an end was asked for.
        kind: what to raise; that of the first time.
        until: when it has to end, as `time.monotonic` counts.
    """

    def __init__(self) -> None:
        self.times = 0
        self.kind: type[KeyboardInterrupt] = KeyboardInterrupt
        self.until = math.inf

    @property
    def is_pressing(self) -> bool:
        """Whether what goes on is to be left as it is."""
        return self.times > 1 or time.monotonic() > self.until


_current: ContextVar[Interruption | None] = ContextVar("_current", default=None)


@contextlib.contextmanager
def graceful(announce: Callable[[float], None], give_up: Callable[[], None] | None = None) -> Iterator[Interruption]:
    """While it lasts, Ctrl-C and SIGTERM are counted, and what goes on stops where it looks whether one was `asked`.

    In compiled code the main thread hears no signal, so another thread listens. Signals that are ignored stay so; in
    any other than the main thread nothing is changed.

    Args:
        announce: called, in another thread, when an end is asked for first, with the seconds that there are for it:
            infinitely many after Ctrl-C.
        give_up: called so when it is asked for again, or these are over; then the process ends, with the status of the
            first time and without any cleaning up, which would wait for the compiled code. Without it the caller looks
            whether it `is_pressing`.

    Raises:
        UserError: if `SUPSUP_GRACE` is not a number of seconds.
    """
    interruption, seconds = Interruption(), grace()
    with _handled(lambda *_: None) as before:
        if not before:
            yield interruption
            return
        listening, signalled = socket.socketpair()
        signalled.setblocking(False)  # Python writes the number of each signal that comes
        earlier = signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
        arguments = listening, interruption, seconds, announce, give_up
        listener = threading.Thread(target=_listen, args=arguments, daemon=True)
        listener.start()
        token = _current.set(interruption)
        try:
            yield interruption
        finally:
            _current.reset(token)
            signal.set_wakeup_fd(earlier)
            signalled.close()
            listener.join()
            listening.close()


def grace() -> float:
    """The seconds that what goes on may take after SIGTERM.

    Raises:
        UserError: if `SUPSUP_GRACE` is not a number of seconds.
    """
    text = os.environ.get(GRACE, _GRACE)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(f"{GRACE}={text} is no number of seconds")
    return seconds


def asked() -> bool:
    """Whether an end was asked for: what goes on is to stop where it can."""
    interruption = _current.get()
    return bool(interruption and interruption.times)


def kind() -> type[KeyboardInterrupt]:
    """What to raise where it stops."""
    interruption = _current.get()
    return interruption.kind if interruption else KeyboardInterrupt


def end_at_once(status: int) -> None:
    """Ends this process from any thread, without any cleaning up; a save that is being made is made first."""
    _saving.acquire(timeout=_SAVING)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


@contextlib.contextmanager
def later() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back until the end: in the middle of a save they leave threads behind, who complain."""
    came: list[int] = []
    with _saving, _handled(lambda number, _: came.append(number)) as before:
        yield
    for number in came:
        handler = before[number]
        if callable(handler):
            handler(number, None)
        else:
            signal.raise_signal(number)


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[dict[int, Any]]:
    """Takes over the signals that are not ignored, in the main thread; gives what handled them before."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: known for number, known in handlers.items() if known not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield before
    finally:
        for number, known in before.items():
            signal.signal(number, known)


def _listen(
    signals: socket.socket,
    interruption: Interruption,
    grace: float,
    announce: Callable[[float], None],
    give_up: Callable[[], None] | None,
) -> None:
    terminated = -math.inf
    with contextlib.suppress(TimeoutError):
        while number := _receive(signals, interruption.until if give_up else math.inf):
            if number == signal.SIGTERM:
                before, terminated = terminated, time.monotonic()
                if terminated - before < _ECHO:
                    continue
                if not interruption.times:
                    interruption.kind, interruption.until = Terminated, terminated + grace
            if number in SIGNALS:
                interruption.times += 1
                if interruption.times == 1:
                    announce(interruption.until - terminated)
                elif give_up:
                    break
        else:
            return
    assert give_up
    with _saving:
        try:
            give_up()
        finally:
            os._exit(status_of(interruption.kind()))


def _receive(signals: socket.socket, until: float) -> int:
    """The number of the next signal; 0 if no more are to come.

    Raises:
        TimeoutError: if none came until then.
    """
    signals.settimeout(None if math.isinf(until) else max(1e-3, until - time.monotonic()))
    return int.from_bytes(signals.recv(1), "little")
