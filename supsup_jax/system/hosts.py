"""One run on several hosts, one process on each: all compute the same in step, and the first reads and writes.

With one process, which is the usual case, these functions do nothing.
"""

import atexit
import contextlib
import json
import os
import re
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from supsup_jax.errors import UserError, reason
from supsup_jax.system import interruption, numerics, versions
from supsup_jax.system.meeting import Address, Facts, differences, meet
from supsup_jax.system.watching import Relay, Watch

_DEFAULT_SECONDS = 300

# Seconds until it is known whether the death of a host caused an error of JAX.
_NOTICE_SECONDS = 5.0

_watch: Watch | None = None


class Place(NamedTuple):
    """The place of this process among the processes of a run.

    Attributes:
        coordinator: address of the first process.
        hosts: the number of hosts.
        host: the number of this host, from 0.
        local_devices: the GPUs of this machine that this process uses; by default all.
    """

    coordinator: str
    hosts: int
    host: int
    local_devices: list[int] | None = None


def is_distributed(coordinator: str | None) -> bool:
    """Return whether a run has several processes: a coordinator is given, or SLURM started several."""
    return coordinator is not None or os.environ.get("SLURM_STEP_NUM_TASKS") not in (None, "", "1")


def join_as(coordinator: str | None, count: int | None, host: int | None, facts: Facts, seconds: int) -> bool:
    """Join the other processes of a command line, with equal versions of packages and equal rounding; see `join`.

    Args:
        coordinator: HOST:PORT of the first process; `None` to read this process's place from SLURM's variables.
        count: number of processes.
        host: index of this process.
        facts: further values that must be equal in all processes.
        seconds: how long to wait for the others.
    """
    place = None
    if coordinator is not None and count is not None and host is not None:
        place = Place(coordinator, count, host)
    installed = {f"the version of {name}": version for name, version in versions.installed().items()}
    return join(place, {**facts, **installed, **numerics.rounding()}, seconds)


def join(place: Place | None, facts: Facts, seconds: int | None = None) -> bool:
    """Join the other processes of a run, if there are any. Call this before JAX computes anything.

    Args:
        place: this process among the others; by default read from SLURM's variables, if SLURM started several.
        facts: the values that must be equal in all processes, by the names that messages use.
        seconds: how long to wait for the others; by default five minutes.

    Returns:
        Whether there are other processes.

    Raises:
        UserError: if the others cannot be reached, or have different facts.
    """
    global _watch
    place = place or (_place_in_slurm() if is_distributed(None) else None)
    if place is None:
        return False
    address = Address.parse(place.coordinator)
    meeting = meet(address, place.hosts, place.host, facts, seconds or _DEFAULT_SECONDS)
    _watch = Watch(meeting)
    # The service runs in the first process. The others reach it through a relay, since JAX aborts them when it is gone.
    reached = Address("127.0.0.1", address.port) if place.host == 0 else Relay(address).address
    if any(name.lower().endswith("_proxy") for name in os.environ):
        os.environ["no_grpc_proxy"] = reached.name  # noqa: SIM112 - the name that gRPC reads
    try:
        jax.distributed.initialize(
            str(reached),
            place.hosts,
            place.host,
            place.local_devices,
            cluster_detection_method="deactivate",
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"JAX cannot connect the hosts of the run ({reason(error)}); start all of them again") from None
    atexit.register(leave, False)  # runs before JAX's handler, which was registered earlier
    if jax.default_backend() == "cpu" and (problem := meeting.unreachable()):
        raise UserError(problem)
    return True


def leave(failed: bool) -> None:
    """Tell the other processes, if there are any, that this one ends.

    Args:
        failed: whether this process has printed why it fails. The others then end too, each with a line.
    """
    if _watch is not None:
        _watch.leave(failed)


def fail() -> None:
    """End this process with status 2 if it has joined others; otherwise do nothing. Print the error line first.

    JAX would first wait for the others, which may wait for this one.
    """
    if _watch is not None:
        leave(failed=True)
        interruption.end_at_once(2)


def fail_with_traceback() -> None:
    """End as `fail` does, but with status 1 and the traceback of the exception that is being handled."""
    if _watch is not None:
        traceback.print_exc()
        leave(failed=True)
        interruption.end_at_once(1)


def wait_for_watch() -> None:
    """Wait, so that `Watch` can end this process with the line about a host that has died, if that is the cause."""
    if _watch is not None:
        time.sleep(_NOTICE_SECONDS)


def is_joined() -> bool:
    """Return whether this process has joined others."""
    return _watch is not None


def _place_in_slurm() -> Place:
    """Return the place of this process among the processes that SLURM's srun started.

    Raises:
        UserError: if SLURM's variables do not give it.
    """
    try:
        hosts, host = int(os.environ["SLURM_STEP_NUM_TASKS"]), int(os.environ["SLURM_PROCID"])
        job, on_node = int(os.environ["SLURM_JOB_ID"]), int(os.environ["SLURM_LOCALID"])
        nodes = re.match(r"([^,\[]+)(?:\[(\d+))?", os.environ["SLURM_STEP_NODELIST"])
        assert nodes is not None
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(
            f"SLURM started several processes of the run, but does not say which this is ({reason(error)}); start it "
            "with srun, or give --coordinator, --hosts and --host"
        ) from None
    # As in JAX: the port is derived from the job number, from 61440, and the same variables override it.
    coordinator = f"{''.join(filter(None, nodes.groups()))}:{61440 + job % 4096}"
    coordinator = os.environ.get("JAX_COORDINATOR_ADDRESS") or coordinator
    only_one = "JAX_LOCAL_DEVICE_IDS" in os.environ or re.fullmatch(
        r"1(\(x\d+\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    )
    # Processes on the same node have a GPU each. The only process of a node has every GPU that SLURM gives it.
    return Place(coordinator, hosts, host, None if only_one else [on_node])


def count() -> int:
    """Return the number of processes."""
    return jax.process_count()


def is_first() -> bool:
    """Return whether this is the process that reads and writes."""
    return jax.process_index() == 0


def broadcast(make: Callable[[], Any]) -> Any:
    """Call a function in the first process and return its result, plain data, in all processes.

    Raises:
        UserError: in all processes, if the first one raises it or an `OSError`.
    """
    if count() == 1:
        return make()
    message = b""
    if is_first():
        try:
            message = json.dumps({"result": make()}).encode()
        except (UserError, OSError) as error:
            message = json.dumps({"error": str(error)}).encode()
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    buffer = np.frombuffer(message, np.uint8) if message else np.zeros(length, np.uint8)
    plain = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8).tobytes())
    if "error" in plain:
        raise UserError(plain["error"])
    return plain["result"]


@contextlib.contextmanager
def enter_on_first(context: AbstractContextManager[None]) -> Iterator[None]:
    """Enter a context in the first process, on behalf of all processes.

    Raises:
        UserError: in all processes, if the first one cannot enter the context.
    """
    with contextlib.ExitStack() as stack:
        broadcast(lambda: stack.enter_context(context))
        yield


def broadcast_arrays(make: Callable[[], PyTree[Any]], like: PyTree[Any]) -> PyTree[Any]:
    """Call a function in the first process and return its arrays in all processes.

    Args:
        make: called in the first process.
        like: a pytree with the shapes and dtypes of the arrays.

    Raises:
        UserError: in all processes, if the first one raises it.
    """
    results: list[Any] = []
    broadcast(lambda: results.append(make()))
    if count() == 1:
        return results[0]
    source = jax.tree.leaves(results[0] if results else like)
    leaves = source if results else [np.zeros(leaf.shape, leaf.dtype) for leaf in source]
    return jax.tree.unflatten(jax.tree.structure(like), multihost_utils.broadcast_one_to_all(leaves))


def run_on_all(make: Callable[[], Any]) -> Any:
    """Call a function in each process and return its result, if it succeeds in all of them.

    Raises:
        UserError: in all processes, if one of them raises a `UserError` or `OSError`.
    """
    result, failure = None, None
    try:
        result = make()
    except (UserError, OSError) as error:
        failure = error
    if any_process(failure is not None):
        raise failure or UserError("another host of the run has failed; fix the error that it printed")
    return result


def check_equal(facts: Facts) -> None:
    """Check that plain values are the same in all processes.

    Args:
        facts: the values by the names that messages use.

    Raises:
        UserError: in all processes, if they differ. The message says which differ and on which host.
    """
    if count() == 1:
        return
    message = json.dumps([socket.gethostname(), facts]).encode()
    lengths = multihost_utils.process_allgather(np.int32(len(message)))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(message)] = np.frombuffer(message, np.uint8)
    rows = zip(multihost_utils.process_allgather(padded), lengths, strict=True)
    (name, expected), *received = [json.loads(row[:length].tobytes()) for row, length in rows]
    others = {host: {"machine": {"name": name}, "facts": facts} for host, (name, facts) in enumerate(received, start=1)}
    if problem := differences(expected, name, others):
        raise UserError(problem)


def any_process(flag: bool) -> bool:
    """Return whether a flag is true in any of the processes."""
    if count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def local_share(rows: np.ndarray) -> np.ndarray:
    """Return the contiguous part of some rows that this process reads; all parts have the same length."""
    each = -(-len(rows) // count())
    return np.resize(rows, each * count())[jax.process_index() * each :][:each]


def gather(parts: PyTree[np.ndarray], length: int) -> PyTree[np.ndarray]:
    """Return the first `length` rows of what all processes have read by `local_share`, in the original order."""
    return jax.tree.map(lambda leaf: leaf[:length], multihost_utils.process_allgather(parts, tiled=True))
