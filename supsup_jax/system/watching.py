"""Ends all hosts of a run with a one-line error if one host dies; otherwise they would wait for it, or crash in JAX."""

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

# Seconds that a host waits before it reports the failure of another host. Hosts that fail together print their own
# errors in this time.
_PATIENCE = 10.0

# Seconds that a host waits before it reports the death of another host. SLURM sends signals to all processes, so this
# process may end for the same reason in this time.
_END_SECONDS = 1.0

# Seconds that JAX's service on the first host may take to listen.
_START_SECONDS = 60.0


class Watch:
    """Ends this process with a one-line error if another host dies, or fails alone.

    Args:
        meeting: the connected hosts.
        end: called with the exit status; it does not return.
    """

    def __init__(self, meeting: Meeting, end: Callable[[int], Any] = interruption.end_at_once):
        self._meeting, self._end = meeting, end
        self._failed = threading.Event()
        self._reporting = threading.Lock()
        for host in meeting.connections:
            threading.Thread(target=self._follow, args=(host,), daemon=True).start()

    def leave(self, failed: bool) -> None:
        """Tell the other hosts that this one ends.

        Args:
            failed: whether this host has printed why it fails. The other hosts then end too.
        """
        if failed:
            self._failed.set()
        for connection in self._meeting.connections.values():
            connection.send({"left": failed})

    def _follow(self, host: int) -> None:
        """Receive the messages of another host until its connection closes."""
        has_left = False
        while (message := self._meeting.connections[host].receive()) is not None:
            has_left = has_left or "left" in message
            if "died" in message:
                self._report(message["died"])
            elif message.get("left") and not self._failed.wait(_PATIENCE):
                self._report(f"{self._meeting.named(host)} of the run has failed, see its output")
        if not has_left:
            time.sleep(_END_SECONDS)
            self._report(f"{self._meeting.named(host)} of the run has died, or cannot be reached")

    def _report(self, message: str) -> None:
        """Print the message, forward it to the other hosts if this is the first one, and end."""
        with self._reporting:
            if self._failed.is_set():
                return
            for connection in self._meeting.connections.values() if self._meeting.host == 0 else ():
                connection.send({"died": message})
            cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # show the cursor, which a progress bar has hidden
            to_stderr(f"{cursor}error: {message}; start the same command with --resume on every host")
            self._end(2)


class Relay:
    """A local port that forwards to the first host. Its connections stay open when that host dies.

    Args:
        address: the first host's address.

    Attributes:
        address: the local address.
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
        until = time.monotonic() + _START_SECONDS
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
