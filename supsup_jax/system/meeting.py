"""Where the processes of a run on several hosts meet: over plain TCP, before JAX connects them.

JAX's own client ends a process with a C++ stack and a core dump where a host does not come, or dies. So the hosts first
meet at the coordinator's port, compare what must be equal, and keep these connections: one that ends without a word is
a host that died. JAX's client then reaches the first host through `watching.Relay`, which hides that from it.
"""

import contextlib
import errno
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from supsup_jax.errors import UserError
from supsup_jax.system.progress import to_stderr

Facts = Mapping[str, Any]
"""What has to be equal on all hosts: plain values by the names that messages use."""

_PROTOCOL = "supsup_jax hosts 1"
_LONGEST_MESSAGE = 2**20

# Seconds in which a process that has connected says which host it is.
_INTRODUCTION = 2.0

# Without a sign of life, a connection ends after the first and as many of the second.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class Address(NamedTuple):
    """The coordinator's address, as it was given."""

    name: str
    port: int

    @classmethod
    def of(cls, text: str) -> "Address":
        """The address of `HOST:PORT`; an IPv6 address in brackets."""
        name, _, port = text.rpartition(":")
        return cls(name.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


class Connection:
    """Messages to and from another host, a line of JSON each."""

    def __init__(self, end: socket.socket):
        self._end, self._file = end, end.makefile("rb")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # not everywhere
                end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Sends a message; one that has gone hears nothing."""
        with contextlib.suppress(OSError):
            self._end.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, seconds: float | None = None) -> dict[str, Any] | None:
        """The next message; `None` if the other end has closed, says something else, or says nothing for so long."""
        try:
            self._end.settimeout(seconds)
            line = self._file.readline(_LONGEST_MESSAGE)
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError, RecursionError):
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Closes it."""
        for part in (self._file, self._end):
            with contextlib.suppress(OSError):
                part.close()


class Meeting(NamedTuple):
    """The hosts of a run, connected.

    Attributes:
        host: which of them this is.
        machines: of each host the name of its machine, what identifies it, and the name's address if it is loopback.
        connections: to the other hosts, from the first one; from the others to the first one.
    """

    host: int
    machines: dict[int, dict[str, Any]]
    connections: dict[int, Connection]

    def named(self, host: int) -> str:
        """A host, for messages."""
        return f"host {host} ({self.machines[host]['name']})"

    def unreachable(self) -> str | None:
        """Why hosts cannot reach each other by the names of their machines, which the CPU's collectives use."""
        if len({machine["id"] for machine in self.machines.values()}) > 1:
            for host, machine in self.machines.items():
                if machine["loopback"]:
                    return (
                        f"{self.named(host)}: there its own name stands for {machine['loopback']}, which other "
                        "machines cannot reach; give the name its address in /etc/hosts"
                    )
        return None


def meet(address: Address, hosts: int, host: int, facts: Facts, seconds: float) -> Meeting:
    """Waits for the other hosts, and says on stderr for whom and where.

    Args:
        address: the first host's, as this host names it.
        hosts: how many there are.
        host: which this is, from 0.
        facts: compared with those of the others.
        seconds: how long to wait.

    Raises:
        UserError: on all hosts that have come, if one does not come or has other facts; if the address cannot be used.
    """
    deadline = time.monotonic() + seconds
    addresses = _resolved(address)
    if host == 0:
        return _gather(address, hosts, facts, deadline)
    hello = {"protocol": _PROTOCOL, "host": host, "hosts": hosts, "machine": _machine(), "facts": facts}
    connection, answer = _reach(address, addresses, hello, deadline)
    if "error" in answer:
        connection.close()
        raise UserError(answer["error"])
    machines = {int(number): machine for number, machine in answer["machines"].items()}
    return Meeting(host, machines, {0: connection})


def _resolved(address: Address) -> list[str]:
    """The IP addresses that a name stands for on this machine."""
    try:
        found = socket.getaddrinfo(address.name, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"--coordinator {address}: {address.name} has no address on this machine ({said}); give the name or the IP "
            "address of the machine where --host 0 runs"
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _is_loopback(ip: str) -> bool:
    return ip.startswith("127.") or ip == "::1"


def _machine() -> dict[str, Any]:
    """What tells this machine from others, and whether its own name is of use to them."""
    name = socket.gethostname()
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        identity = name
    try:
        own = socket.gethostbyname(name)
    except OSError:
        own = ""
    return {"name": name, "id": identity, "loopback": own if _is_loopback(own) else ""}


def _gather(address: Address, hosts: int, facts: Facts, deadline: float) -> Meeting:
    """The first host's part: waits for the others, compares, and tells all what came of it."""
    server = _listening(address)
    came: dict[int, tuple[Connection, dict[str, Any]]] = {}
    missing = [*range(1, hosts)]
    to_stderr(
        f"waiting for {_hosts(missing)} at {address}, {deadline - time.monotonic():.0f} s at most (--host-timeout)"
    )
    problem = None
    with contextlib.closing(server):
        while missing and time.monotonic() < deadline:
            server.settimeout(max(0.01, min(1.0, deadline - time.monotonic())))
            with contextlib.suppress(TimeoutError):
                connection = Connection(server.accept()[0])
                hello = connection.hear(_INTRODUCTION) or {}
                refusal = _refusal(hello, hosts, came)
                if refusal is None:
                    came[hello["host"]] = connection, hello
                    missing.remove(hello["host"])
                else:
                    connection.tell({"error": refusal})
                    connection.close()
    if missing:
        problem = (
            f"{_hosts(missing)} did not come to --coordinator {address}; start the same command there, with its own "
            "--host, or give more time with --host-timeout"
        )
    own = _machine()
    problem = problem or differences(facts, own["name"], {host: hello for host, (_, hello) in sorted(came.items())})
    machines = {0: own} | {host: hello["machine"] for host, (_, hello) in sorted(came.items())}
    for connection, _ in came.values():
        connection.tell({"error": problem} if problem else {"machines": machines})
    if problem:
        for connection, _ in came.values():
            connection.close()
        raise UserError(problem)
    return Meeting(0, machines, {host: connection for host, (connection, _) in came.items()})


def _hosts(numbers: list[int]) -> str:
    return f"host{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _listening(address: Address) -> socket.socket:
    """The coordinator's port, on all addresses of this machine as JAX listens."""
    try:
        return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) not in (errno.EADDRINUSE, errno.EACCES):  # a machine without IPv6
            with contextlib.suppress(OSError):
                return socket.create_server(("", address.port))
        said = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"--coordinator {address}: port {address.port} of this machine cannot be used ({said}); give all hosts "
            "another port"
        ) from None


def _refusal(hello: Mapping[str, Any], hosts: int, came: Mapping[int, Any]) -> str | None:
    """Why a process that has connected is not one of the run's."""
    host: Any = hello.get("host")
    theirs = hello.get("hosts")
    if hello.get("protocol") != _PROTOCOL:
        return "host 0 runs another version of supsup_jax; give all hosts the same"
    if theirs != hosts:
        return f"--hosts {theirs}: host 0 was started with --hosts {hosts}; give all hosts the same"
    if host in came or host not in range(1, hosts):
        where = f", on {came[host][1]['machine']['name']}" if host in came else ""
        return f"--host {host} runs already{where}; give every host its own number"
    return None


def differences(facts: Facts, name: str, others: Mapping[int, Mapping[str, Any]]) -> str | None:
    """What other hosts have otherwise than the first one, in a line."""
    facts = json.loads(json.dumps(facts))
    parts = []
    for host, hello in others.items():
        theirs = hello["facts"]
        names = [fact for fact in facts | theirs if facts.get(fact) != theirs.get(fact)]
        parts += [
            f"{fact} is {theirs.get(fact)} on host {host} ({hello['machine']['name']}) and {facts.get(fact)} on host 0 "
            f"({name})"
            for fact in names
        ]
    return f"{'; '.join(parts)}; give all hosts the same command, versions and data" if parts else None


def _reach(
    address: Address, addresses: list[str], hello: Mapping[str, Any], deadline: float
) -> tuple[Connection, dict[str, Any]]:
    """The part of the other hosts: connects to the first one, and hears its answer."""
    loopback = all(map(_is_loopback, addresses))
    said, why = False, ""
    while True:
        try:
            end = socket.create_connection(address, timeout=max(0.1, min(5.0, deadline - time.monotonic())))
        except OSError as error:
            why = error.strerror or str(error)
        else:
            connection = Connection(end)
            if end.getsockname() != end.getpeername():  # a port of this machine may connect to itself
                connection.tell(hello)
                if answer := connection.hear(max(0.1, deadline - time.monotonic())):
                    return connection, answer
                why = "it does not answer as a host of a run does"
            connection.close()
        if time.monotonic() > deadline:
            here = f"; {address.name} is this machine itself, so name the one where it runs" if loopback else ""
            raise UserError(
                f"host 0 did not answer at --coordinator {address} ({why}); start the same command there with --host 0"
                f"{here}, or give more time with --host-timeout"
            )
        if not said:
            where = f"{', '.join(addresses)}{', this machine' if loopback else ''}"
            seconds = deadline - time.monotonic()
            to_stderr(f"waiting for host 0 at {address} ({where}), {seconds:.0f} s at most (--host-timeout)")
            said = True
        time.sleep(min(0.2, max(0.01, deadline - time.monotonic())))
