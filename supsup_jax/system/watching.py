"""What keeps the hosts of a run from waiting for one that has died, and from being aborted by JAX because of it."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from supsup_jax.system import interruption
from supsup_jax.system.meeting import Address, Meeting
from supsup_jax.system.progress import to_stderr

# Seconds in which hosts that fail together each say why, before one says it of another.
_PATIENCE = 10.0

# Seconds in which this process may end as the other has: SLURM sends signals to all.
_ENDING = 1.0

# Seconds that JAX's service may take to listen, on the first host.
_STARTING = 60.0


class Watch:
    """Ends this process in one line when another host has died, or has failed alone.

    Args:
        meeting: the hosts.
        end: called with the exit status; it does not return.
    """

    def __init__(self, meeting: Meeting, end: Callable[[int], Any] = interruption.end_at_once):
        self._meeting, self._end = meeting, end
        self._failed = threading.Event()
        self._reporting = threading.Lock()
        for host in meeting.connections:
            threading.Thread(target=self._follow, args=(host,), daemon=True).start()

    def leave(self, failed: bool) -> None:
        """Tells the other hosts that this one ends.

        Args:
            failed: whether it has said why in a line of its own; the others end then as well.
        """
        if failed:
            self._failed.set()
        for connection in self._meeting.connections.values():
            connection.tell({"left": failed})

    def _follow(self, host: int) -> None:
        """Hears what another host says until it has gone."""
        has_left = False
        while (message := self._meeting.connections[host].hear()) is not None:
            has_left = has_left or "left" in message
            if "died" in message:
                self._report(message["died"])
            elif message.get("left") and not self._failed.wait(_PATIENCE):
                self._report(f"{self._meeting.named(host)} of the run has failed, and says why")
        if not has_left:
            time.sleep(_ENDING)
            self._report(f"{self._meeting.named(host)} of the run has died, or cannot be reached")

    def _report(self, message: str) -> None:
        """Says so here, on the first host also to the others, and ends."""
        with self._reporting:
            if self._failed.is_set():
                return
            for connection in self._meeting.connections.values() if self._meeting.host == 0 else ():
                connection.tell({"died": message})
            cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar has hidden it
            to_stderr(f"{cursor}error: {message}; start the same command with --resume on every host")
            self._end(2)


class Relay:
    """A port of this machine behind which is the first host's. Connections to it stay when that host dies.

    Args:
        address: the first host's.

    Attributes:
        address: the port's.
    """

    def __init__(self, address: Address):
        self._outer = address
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            inner, _ = self._server.accept()
            threading.Thread(target=self._connect, args=(inner,), daemon=True).start()

    def _connect(self, inner: socket.socket) -> None:
        until = time.monotonic() + _STARTING
        while True:
            try:
                outer = socket.create_connection(self._outer, timeout=5)
                break
            except OSError:
                if time.monotonic() > until:
                    return
                time.sleep(0.05)
        outer.settimeout(None)
        for end in (inner, outer):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_forward, args=(outer, inner), daemon=True).start()
        _forward(inner, outer)
        with contextlib.suppress(OSError):
            outer.shutdown(socket.SHUT_WR)


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
