"""Ctrl-C and SIGTERM: the first one lets the current work finish and be saved; the second ends the process at once.

The current work is a chunk of tasks that are learned together, or some tasks of an evaluation. Schedulers send SIGKILL
soon after SIGTERM, so if the current work is not finished `SUPSUP_GRACE` seconds after SIGTERM (10 by default), the
process ends without it. It then loses that chunk but nothing that was saved before, as if it were killed.
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
"""The environment variable for the seconds that the current work may take after SIGTERM."""

_GRACE = 10.0  # by default SLURM sends SIGKILL 30 seconds after SIGTERM

# Seconds within which repeated SIGTERMs count once: SLURM sends one to a sweep and to its runs, as does the sweep.
_REPEAT_SECONDS = 1.0

# Seconds for which a save may delay the end of the process.
_SAVE_SECONDS = 30.0

_saving = threading.Lock()


class Terminated(KeyboardInterrupt):
    """An interruption by SIGTERM, which SLURM sends before a preemption, instead of Ctrl-C."""


def status_of(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status for an interruption: 128 plus the number of the signal, as in shells."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


class Interruption:
    """The interruptions requested so far.

    Attributes:
        times: the number of requests.
        kind: the exception to raise, according to the first request.
        until: when the process has to end, in the time of `time.monotonic`.
    """

    def __init__(self) -> None:
        self.times = 0
        self.kind: type[KeyboardInterrupt] = KeyboardInterrupt
        self.until = math.inf

    @property
    def is_pressing(self) -> bool:
        """Whether to abandon the current work."""
        return self.times > 1 or time.monotonic() > self.until


_current: ContextVar[Interruption | None] = ContextVar("_current", default=None)


@contextlib.contextmanager
def graceful(announce: Callable[[float], None], give_up: Callable[[], None] | None = None) -> Iterator[Interruption]:
    """Count Ctrl-C and SIGTERM inside this context; the current work stops where it checks `is_requested`.

    Python does not handle signals in the main thread during compiled code, so another thread listens. Signals that are
    ignored stay ignored. Outside the main thread this context changes nothing.

    Args:
        announce: called in another thread at the first request, with the seconds until the process has to end:
            infinity after Ctrl-C.
        give_up: called in another thread at the second request, or when these seconds are over. The process then ends
            with the status of the first request and without cleanup, which would wait for the compiled code. Without
            `give_up`, the caller checks `is_pressing`.

    Raises:
        UserError: if `SUPSUP_GRACE` is not a number of seconds.
    """
    interruption, seconds = Interruption(), grace()
    with _handled(lambda *_: None) as before:
        if not before:
            yield interruption
            return
        listening, signalled = socket.socketpair()
        signalled.setblocking(False)  # Python writes the number of each signal to it
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
    """Return the seconds that the current work may take after SIGTERM.

    Raises:
        UserError: if `SUPSUP_GRACE` is not a number of seconds.
    """
    text = os.environ.get(GRACE, _GRACE)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(f"{GRACE}={text}: must be a non-negative number of seconds, such as {_GRACE:g}")
    return seconds


def is_requested() -> bool:
    """Return whether an interruption was requested, so that the current work should stop."""
    interruption = _current.get()
    return bool(interruption and interruption.times)


def kind() -> type[KeyboardInterrupt]:
    """Return the exception to raise where the current work stops."""
    interruption = _current.get()
    return interruption.kind if interruption else KeyboardInterrupt


def end_at_once(status: int) -> None:
    """End this process from any thread without cleanup, after a save in progress has finished."""
    _saving.acquire(timeout=_SAVE_SECONDS)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


@contextlib.contextmanager
def delayed() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until this context ends; in the middle of a save they would leave threads behind."""
    received: list[int] = []
    with _saving, _handled(lambda number, _: received.append(number)) as before:
        yield
    for number in received:
        handler = before[number]
        if callable(handler):
            handler(number, None)
        else:
            signal.raise_signal(number)


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[dict[int, Any]]:
    """Handle the signals that are not ignored, in the main thread; yield their previous handlers."""
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
                if terminated - before < _REPEAT_SECONDS:
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
    """Return the number of the next signal, or 0 if the context has ended.

    Raises:
        TimeoutError: if no signal arrives before `until`.
    """
    signals.settimeout(None if math.isinf(until) else max(1e-3, until - time.monotonic()))
    return int.from_bytes(signals.recv(1), "little")
