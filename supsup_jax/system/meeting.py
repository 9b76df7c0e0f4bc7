"""Connects the processes of a run on several hosts over plain TCP, before JAX connects them.

If a host does not connect, or dies, JAX's client ends its process with a C++ stack and a core dump. So the hosts first
connect to the coordinator's port, compare the facts that must be equal, and keep these connections open: a connection
that closes without a message means that its host died. JAX's client then reaches the first host through
`watching.Relay`, which hides the death of the host from it.
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
"""Plain values that must be equal on all hosts, by the names that messages use."""

_PROTOCOL = "supsup_jax hosts 1"
_LONGEST_MESSAGE = 2**20

# Seconds within which a connected process must send its host number.
_HELLO_SECONDS = 2.0

# Seconds after the time limit in which the first host's answer is awaited: it knows which hosts are missing.
_ANSWER_SECONDS = 2.0

# Without a reply, a connection closes after TCP_KEEPIDLE + TCP_KEEPINTVL * TCP_KEEPCNT seconds.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class Address(NamedTuple):
    """The coordinator's address, as the user gave it."""

    name: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse `HOST:PORT`, with an IPv6 address in brackets."""
        name, _, port = text.rpartition(":")
        return cls(name.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


class Connection:
    """Exchanges messages with another host, one line of JSON each."""

    def __init__(self, end: socket.socket):
        self._end, self._file = end, end.makefile("rb")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # some platforms lack them
                end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; a closed connection is ignored."""
        with contextlib.suppress(OSError):
            self._end.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float | None = None) -> dict[str, Any] | None:
        """Return the next message, or `None` if the connection closed, timed out, or sent something else."""
        try:
            self._end.settimeout(seconds)
            line = self._file.readline(_LONGEST_MESSAGE)
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError, RecursionError):
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Close the connection and its file."""
        for part in (self._file, self._end):
            with contextlib.suppress(OSError):
                part.close()


class Meeting(NamedTuple):
    """The connected hosts of a run.

    Attributes:
        host: the number of this host.
        machines: for each host, the name of its machine, an identifier, and its name's address if that is loopback.
        connections: connections to all other hosts on host 0; to host 0 on the others.
    """

    host: int
    machines: dict[int, dict[str, Any]]
    connections: dict[int, Connection]

    def named(self, host: int) -> str:
        """Return the label of a host in messages."""
        return f"host {host} ({self.machines[host]['name']})"

    def unreachable(self) -> str | None:
        """Return why hosts cannot reach each other by machine name, as the CPU's collectives do, or `None`."""
        if len({machine["id"] for machine in self.machines.values()}) > 1:
            for host, machine in self.machines.items():
                if machine["loopback"]:
                    return (
                        f"{self.named(host)}: its name resolves there to {machine['loopback']}, which other machines "
                        "cannot reach; give the name its address in /etc/hosts"
                    )
        return None


def meet(address: Address, hosts: int, host: int, facts: Facts, seconds: float) -> Meeting:
    """Wait for the other hosts; print to stderr which hosts are missing, and at which address.

    Args:
        address: the first host's address, as this host names it.
        hosts: the number of hosts.
        host: the number of this host, from 0.
        facts: values to compare with those of the other hosts.
        seconds: how long to wait.

    Raises:
        UserError: on all connected hosts, if one does not connect or has different facts; if the address is unusable.
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
    """Return the IP addresses that the name resolves to on this machine."""
    try:
        found = socket.getaddrinfo(address.name, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"--coordinator {address}: {address.name} has no address on this machine ({why}); give the name or the IP "
            "address of the machine where --host 0 runs"
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _is_loopback(ip: str) -> bool:
    return ip.startswith("127.") or ip == "::1"


def _machine() -> dict[str, Any]:
    """Return the name and an identifier of this machine, and the address of its name if that is loopback."""
    name = socket.gethostname()
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        identity = name
    try:
        address = socket.gethostbyname(name)
    except OSError:
        address = ""
    return {"name": name, "id": identity, "loopback": address if _is_loopback(address) else ""}


def _gather(address: Address, hosts: int, facts: Facts, deadline: float) -> Meeting:
    """Wait for the other hosts on the first one, compare the facts, and send the outcome to all."""
    server = _listening(address)
    connected: dict[int, tuple[Connection, dict[str, Any]]] = {}
    missing = [*range(1, hosts)]
    if missing:
        seconds = deadline - time.monotonic()
        to_stderr(f"waiting for {_hosts(missing)} at {address}, {seconds:.0f} s at most (--host-timeout)")
    problem = None
    with contextlib.closing(server):
        while missing and time.monotonic() < deadline:
            server.settimeout(max(0.01, min(1.0, deadline - time.monotonic())))
            with contextlib.suppress(TimeoutError):
                connection = Connection(server.accept()[0])
                hello = connection.receive(_HELLO_SECONDS) or {}
                refusal = _refusal(hello, hosts, connected)
                if refusal is None:
                    connected[hello["host"]] = connection, hello
                    missing.remove(hello["host"])
                else:
                    connection.send({"error": refusal})
                    connection.close()
    if missing:
        problem = (
            f"{_hosts(missing)} did not connect to --coordinator {address}; start the same command there, with its "
            "own --host, or give more time with --host-timeout"
        )
    machine = _machine()
    hellos = {host: hello for host, (_, hello) in sorted(connected.items())}
    problem = problem or differences(facts, machine["name"], hellos)
    machines = {0: machine} | {host: hello["machine"] for host, hello in hellos.items()}
    for connection, _ in connected.values():
        connection.send({"error": problem} if problem else {"machines": machines})
    if problem:
        for connection, _ in connected.values():
            connection.close()
        raise UserError(problem)
    return Meeting(0, machines, {host: connection for host, (connection, _) in connected.items()})


def _hosts(numbers: list[int]) -> str:
    return f"host{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _listening(address: Address) -> socket.socket:
    """Listen on the coordinator's port, on all addresses of this machine as JAX does."""
    try:
        return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) not in (errno.EADDRINUSE, errno.EACCES):  # a machine without IPv6
            with contextlib.suppress(OSError):
                return socket.create_server(("", address.port))
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"--coordinator {address}: port {address.port} of this machine cannot be used ({why}); give all hosts "
            "another port"
        ) from None


def _refusal(hello: Mapping[str, Any], hosts: int, connected: Mapping[int, Any]) -> str | None:
    """Return why a process that has connected does not belong to the run, or `None` if it does."""
    host: Any = hello.get("host")
    theirs = hello.get("hosts")
    if hello.get("protocol") != _PROTOCOL:
        return "host 0 runs a different version of supsup_jax; install the same version on all hosts"
    if theirs != hosts:
        return f"--hosts {theirs}: host 0 was started with --hosts {hosts}; give all hosts the same"
    if host in connected or host not in range(1, hosts):
        where = f", on {connected[host][1]['machine']['name']}" if host in connected else ""
        return f"--host {host} is already running{where}; give every host its own number"
    return None


def differences(facts: Facts, name: str, others: Mapping[int, Mapping[str, Any]]) -> str | None:
    """Return in one line how the facts of other hosts differ from the first host's, or `None`."""
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
    """Connect from another host to the first one and receive its answer."""
    loopback = all(map(_is_loopback, addresses))
    announced, why = False, ""
    while True:
        try:
            end = socket.create_connection(address, timeout=max(0.1, min(5.0, deadline - time.monotonic())))
        except OSError as error:
            why = error.strerror or str(error)
        else:
            connection = Connection(end)
            if end.getsockname() != end.getpeername():  # a port of this machine may connect to itself
                connection.send(hello)
                if answer := connection.receive(_ANSWER_SECONDS + max(0.0, deadline - time.monotonic())):
                    return connection, answer
                why = "it does not answer as a host of a run"
            connection.close()
        if time.monotonic() > deadline:
            hint = f"; {address.name} is this machine itself, so name the machine of host 0" if loopback else ""
            raise UserError(
                f"host 0 did not answer at --coordinator {address} ({why}); start the same command there with --host 0"
                f"{hint}, or give more time with --host-timeout"
            )
        if not announced:
            where = f"{', '.join(addresses)}{', this machine' if loopback else ''}"
            seconds = deadline - time.monotonic()
            to_stderr(f"waiting for host 0 at {address} ({where}), {seconds:.0f} s at most (--host-timeout)")
            announced = True
        time.sleep(min(0.2, max(0.01, deadline - time.monotonic())))
