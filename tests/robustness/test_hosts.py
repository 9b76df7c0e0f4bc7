"""Hosts of a run that are missing, differ or die: one line on every other host, with status 2."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from supsup_jax import UserError
from supsup_jax.system import hosts, meeting, watching
from supsup_jax.system.meeting import Address, meet

ROOT = Path(__file__).parents[2]

# Connections of a run stay open until its process ends.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def free_address(name="localhost"):
    return Address(name, free_port())


def met(address, *calls, seconds=20.0):
    """Call `meet` simultaneously, once per host; return the meeting, or the message of the error, of each host."""
    outcomes = [None] * len(calls)

    def call(place, arguments):
        try:
            outcomes[place] = meet(address, *arguments, seconds)
        except UserError as error:
            assert "\n" not in str(error)
            outcomes[place] = str(error)

    threads = [threading.Thread(target=call, args=arguments) for arguments in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_hosts_that_agree_meet_in_any_order(capfd):
    first, second, third = met(free_address(), (3, 0, {"--seed": 1}), (3, 1, {"--seed": 1}), (3, 2, {"--seed": 1}))
    assert sorted(first.connections) == [1, 2] and sorted(second.connections) == sorted(third.connections) == [0]
    assert first.machines == second.machines == third.machines
    assert first.unreachable() is None
    assert "waiting for hosts 1, 2 at localhost:" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("host", "waits", "words"),
    [
        (0, "waiting for host 1 at localhost:", "host 1 did not connect to --coordinator localhost:"),
        (1, "waiting for host 0 at localhost:", "localhost is this machine itself, so name the machine of host 0"),
    ],
)
def test_a_single_host_names_the_missing_host_and_ends(capfd, host, waits, words):
    started = time.monotonic()
    (message,) = met(free_address(), (2, host, {}), seconds=1.0)
    assert time.monotonic() - started < 5
    assert words in message and "--host-timeout" in message
    assert capfd.readouterr().err.startswith(waits)


def test_a_run_on_one_host_waits_for_no_other(capfd):
    assert met(free_address(), (1, 0, {}))[0].connections == {}
    assert "waiting" not in capfd.readouterr().err


def test_differences_are_reported_with_their_host_on_all_hosts():
    facts = {"--seed": 1, "the version of jax": "0.10", "--learning-rate": 0.1}
    other = facts | {"--seed": 2, "the version of jax": "0.11"}
    messages = met(free_address(), (3, 0, facts), (3, 1, facts), (3, 2, other))
    name = socket.gethostname()
    for message in messages:
        assert f"--seed is 2 on host 2 ({name}) and 1 on host 0 ({name})" in message
        assert "the version of jax is 0.11 on host 2" in message
        assert "--learning-rate" not in message


def test_a_wrong_number_of_hosts_or_a_repeated_host_is_rejected():
    messages = met(free_address(), (2, 0, {}), (3, 2, {}), seconds=2.0)
    assert "host 1 did not connect" in messages[0]
    assert "--hosts 3: host 0 was started with --hosts 2" in messages[1]
    messages = met(free_address(), (3, 0, {}), (3, 1, {}), (3, 1, {}), seconds=2.0)
    assert any("--host 1 is already running, on " in message for message in messages)
    assert sum("host 2 did not connect" in message for message in messages) == 2


def test_a_used_port_and_a_name_without_address_are_reported_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("localhost", server.getsockname()[1])
        (message,) = met(address, (2, 0, {}))
        assert f"port {address.port} of this machine cannot be used (Address already in use" in message
        (message,) = met(address, (2, 1, {}), seconds=1.0)
        assert "it does not answer as a host of a run" in message
    for host in range(2):
        (message,) = met(Address("nowhere.invalid", 1234), (2, host, {}))
        assert "nowhere.invalid has no address on this machine" in message


def test_unrelated_connections_to_the_port_have_no_effect():
    address = free_address()
    outcomes = []
    first = threading.Thread(target=lambda: outcomes.extend(met(address, (2, 0, {}))))
    first.start()
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"", b"[1]\n", b'{"protocol": "x"}\n'):
        while True:
            try:
                with socket.create_connection(address) as stranger:
                    stranger.sendall(words)
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
    outcomes += met(address, (2, 1, {}))
    first.join()
    assert all(isinstance(outcome, meeting.Meeting) for outcome in outcomes)


def test_a_name_that_other_machines_cannot_reach_is_reported():
    machines = {
        host: {"name": f"node{host}", "id": str(host), "loopback": "127.0.1.1" if host else ""} for host in range(2)
    }
    problem = meeting.Meeting(0, machines, {}).unreachable()
    assert problem is not None and problem.startswith("host 1 (node1): its name resolves there to 127.0.1.1")


@pytest.fixture
def watched():
    """The meetings and watches of two hosts, and the statuses with which each host was ended."""
    meetings = met(free_address(), (2, 0, {}), (2, 1, {}))
    ended = {0: [], 1: []}
    watches = [watching.Watch(of_host, ended[host].append) for host, of_host in enumerate(meetings)]
    return meetings, watches, ended


def eventually(condition):
    for _ in range(200):
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("dead", [0, 1])
def test_a_host_whose_connection_ends_without_a_message_has_died(watched, capfd, dead):
    meetings, _, ended = watched
    for connection in meetings[dead].connections.values():
        connection._end.shutdown(socket.SHUT_RDWR)
    assert eventually(lambda: ended[1 - dead] == [2])
    assert f"error: host {dead} ({socket.gethostname()}) of the run has died" in capfd.readouterr().err


def test_hosts_that_fail_together_do_not_report_each_other(watched, capfd, monkeypatch):
    monkeypatch.setattr(watching, "_PATIENCE", 0.5)
    meetings, watches, ended = watched
    for watch, of_host in zip(watches, meetings, strict=True):
        watch.leave(failed=True)
        for connection in of_host.connections.values():
            connection._end.shutdown(socket.SHUT_WR)
    time.sleep(1)
    assert ended == {0: [], 1: []} and "error" not in capfd.readouterr().err


def test_a_host_that_fails_alone_ends_the_others(watched, capfd, monkeypatch):
    monkeypatch.setattr(watching, "_PATIENCE", 0.1)
    _, watches, ended = watched
    watches[1].leave(failed=True)
    assert eventually(lambda: ended[0] == [2])
    assert f"host 1 ({socket.gethostname()}) of the run has failed, see its output" in capfd.readouterr().err


def test_a_relay_forwards_data_and_stays_open_when_its_server_closes():
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = watching.Relay(Address("127.0.0.1", server.getsockname()[1]))
        with socket.create_connection(relay.address, timeout=5) as inner:
            outer = server.accept()[0]
            inner.sendall(b"request")
            assert outer.recv(10) == b"request"
            outer.sendall(b"answer")
            assert inner.recv(10) == b"answer"
            outer.close()
            inner.settimeout(0.3)
            with pytest.raises(TimeoutError):
                inner.recv(10)


def test_the_first_host_is_read_from_variables_of_slurm(monkeypatch):
    variables = {"STEP_NUM_TASKS": "2", "PROCID": "1", "LOCALID": "0", "STEP_TASKS_PER_NODE": "1(x2)", "JOB_ID": "4097"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for nodes, first in (("node[003-004,7]", "node003"), ("a1,b[2-3]", "a1"), ("only", "only")):
        monkeypatch.setenv("SLURM_STEP_NODELIST", nodes)
        assert hosts._place_in_slurm() == hosts.Place(f"{first}:61441", 2, 1)
    monkeypatch.delenv("SLURM_PROCID")
    with pytest.raises(UserError, match="SLURM started several processes"):
        hosts._place_in_slurm()


TOGETHER = """
import sys, time
from supsup_jax.cli import launch
from supsup_jax.system import hosts

@launch.errors_in_one_line()
def main():
    hosts.join(hosts.Place(sys.argv[1], 2, int(sys.argv[2])), {}, 120)
    while True:
        hosts.check_equal({"data": 1})
        print("together", flush=True)
        time.sleep(0.1)

main()
"""


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_host_ends_the_other_without_a_core_dump(tmp_path, killed):
    address = f"localhost:{free_port()}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, address, str(host)],
            env=environment,
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for host in range(2)
    ]
    for line in processes[1 - killed].stdout:
        if "together" in line:
            break
    processes[killed].send_signal(signal.SIGKILL)
    _, stderr = processes[1 - killed].communicate(timeout=60)
    processes[killed].communicate()
    assert processes[1 - killed].returncode == 2, stderr
    (error,) = [line for line in stderr.splitlines() if not line.startswith("waiting for")]
    assert error.startswith(f"error: host {killed} (") and "has died" in error
    assert not list(tmp_path.iterdir())
