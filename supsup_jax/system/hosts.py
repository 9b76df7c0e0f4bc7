"""One run on several hosts, a process on each: all compute the same in step, and the first one reads and writes.

With one process, which is the rule, nothing here does anything.
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
from supsup_jax.system import interruption
from supsup_jax.system.meeting import Address, Facts, differences, meet
from supsup_jax.system.watching import Relay, Watch

_DEFAULT_SECONDS = 300

# Seconds until an error of JAX is known to come of the death of a host, or not to.
_NOTICING = 5.0

_watch: Watch | None = None


class Place(NamedTuple):
    """This process among those of a run.

    Attributes:
        coordinator: address of the first process.
        hosts: how many there are.
        host: which this is, from 0.
        local_devices: the GPUs of this machine that are its own; by default all.
    """

    coordinator: str
    hosts: int
    host: int
    local_devices: list[int] | None = None


def several(coordinator: str | None) -> bool:
    """Whether a run is to have several processes: one names their coordinator, or SLURM started several."""
    return coordinator is not None or os.environ.get("SLURM_STEP_NUM_TASKS") not in (None, "", "1")


def join(place: Place | None, facts: Facts, seconds: int | None = None) -> bool:
    """Joins the other processes of a run, if it has any; call it before JAX computes anything.

    Args:
        place: this process among them; by default SLURM is asked, if it started several.
        facts: what has to be equal in all of them, by the names that messages use.
        seconds: how long to wait for the others; by default five minutes.

    Returns:
        Whether there are others.

    Raises:
        UserError: if the others cannot be reached, or have other facts.
    """
    global _watch
    place = place or (_place_in_slurm() if several(None) else None)
    if place is None:
        return False
    address = Address.of(place.coordinator)
    meeting = meet(address, place.hosts, place.host, facts, seconds or _DEFAULT_SECONDS)
    _watch = Watch(meeting)
    # The first process has the service. The others reach it through a relay, since JAX aborts them when it is gone.
    reached = Address("127.0.0.1", address.port) if place.host == 0 else Relay(address).address
    if any(name.lower().endswith("_proxy") for name in os.environ):
        os.environ["no_grpc_proxy"] = reached.name  # noqa: SIM112 - gRPC reads it so
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
    atexit.register(leave, False)  # before JAX's own, which was registered earlier
    if jax.default_backend() == "cpu" and (problem := meeting.unreachable()):
        raise UserError(problem)
    return True


def leave(failed: bool) -> None:
    """Tells the other processes, if there are any, that this one ends.

    Args:
        failed: whether it has said in a line why. The others end as well then, each with a line.
    """
    if _watch is not None:
        _watch.leave(failed)


def fail() -> None:
    """Ends this process with status 2 if it has joined others, and has said why it fails; else it does nothing.

    JAX would first wait for the others, which may wait for this one.
    """
    if _watch is not None:
        leave(failed=True)
        interruption.end_at_once(2)


def fail_with_traceback() -> None:
    """Does the same within an `except`, with its traceback and status 1."""
    if _watch is not None:
        traceback.print_exc()
        leave(failed=True)
        interruption.end_at_once(1)


def let_watch_end() -> None:
    """Lets this process end with the line of a host that has died, where that is why it fails."""
    if _watch is not None:
        time.sleep(_NOTICING)


def is_joined() -> bool:
    """Whether this process has joined others."""
    return _watch is not None


def _place_in_slurm() -> Place:
    """This process among those that SLURM's srun started.

    Raises:
        UserError: if SLURM's variables do not say it.
    """
    try:
        hosts, host = int(os.environ["SLURM_STEP_NUM_TASKS"]), int(os.environ["SLURM_PROCID"])
        job, on_node = int(os.environ["SLURM_JOB_ID"]), int(os.environ["SLURM_LOCALID"])
        nodes = re.match(r"([^,\[]+)(?:\[(\d+))?", os.environ["SLURM_STEP_NODELIST"])
        assert nodes is not None
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(
            f"SLURM started several processes of the run, and does not say which this is ({reason(error)}); start it "
            "with srun, or give --coordinator, --hosts and --host"
        ) from None
    # JAX takes the ports from 61440 by the number of the job, and these variables, too.
    coordinator = f"{''.join(filter(None, nodes.groups()))}:{61440 + job % 4096}"
    coordinator = os.environ.get("JAX_COORDINATOR_ADDRESS") or coordinator
    alone = "JAX_LOCAL_DEVICE_IDS" in os.environ or re.fullmatch(
        r"1(\(x\d+\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    )
    # Processes of one node have a GPU each. The only one of a node has all that SLURM gives it.
    return Place(coordinator, hosts, host, None if alone else [on_node])


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this is the process that reads and writes."""
    return jax.process_index() == 0


def told_by_first(make: Callable[[], Any]) -> Any:
    """What the first process makes, plain data, in all of them.

    Raises:
        UserError: in all of them, if the first one raises it.
    """
    if count() == 1:
        return make()
    said = b""
    if is_first():
        try:
            said = json.dumps({"made": make()}).encode()
        except (UserError, OSError) as error:
            said = json.dumps({"error": str(error)}).encode()
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
    told = np.frombuffer(said, np.uint8) if said else np.zeros(length, np.uint8)
    plain = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(told), np.uint8).tobytes())
    if "error" in plain:
        raise UserError(plain["error"])
    return plain["made"]


@contextlib.contextmanager
def held_by_first(context: AbstractContextManager[None]) -> Iterator[None]:
    """Enters a context in the first process, for all of them.

    Raises:
        UserError: in all of them, if the first one cannot enter it.
    """
    with contextlib.ExitStack() as stack:
        told_by_first(lambda: stack.enter_context(context))
        yield


def from_first(make: Callable[[], PyTree[Any]], like: PyTree[Any]) -> PyTree[Any]:
    """The arrays that the first process makes, in all of them.

    Args:
        make: called in the first process.
        like: their shapes and types.

    Raises:
        UserError: in all of them, if the first one raises it.
    """
    made: list[Any] = []
    told_by_first(lambda: made.append(make()))
    if count() == 1:
        return made[0]
    leaves = jax.tree.leaves(made[0]) if made else [np.zeros(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), multihost_utils.broadcast_one_to_all(leaves))


def together(make: Callable[[], Any]) -> Any:
    """What each process makes for itself, if all of them can.

    Raises:
        UserError: in all of them, if one of them raises an error.
    """
    made, failure = None, None
    try:
        made = make()
    except (UserError, OSError) as error:
        failure = error
    if any_of(failure is not None):
        raise failure or UserError("another of the run's hosts cannot go on; what it says is to be mended there")
    return made


def agree(facts: Facts) -> None:
    """Checks that plain values are the same in all processes.

    Args:
        facts: the values by the names that messages use.

    Raises:
        UserError: in all of them, if they differ: says which, and where.
    """
    if count() == 1:
        return
    own = json.dumps([socket.gethostname(), facts]).encode()
    lengths = multihost_utils.process_allgather(np.int32(len(own)))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(own)] = np.frombuffer(own, np.uint8)
    rows = zip(multihost_utils.process_allgather(padded), lengths, strict=True)
    said = [json.loads(row[:length].tobytes()) for row, length in rows]
    others = {host: {"machine": {"name": name}, "facts": theirs} for host, (name, theirs) in enumerate(said) if host}
    if problem := differences(said[0][1], said[0][0], others):
        raise UserError(problem)


def any_of(flag: bool) -> bool:
    """Whether it holds in any of the processes."""
    if count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def share_of(rows: np.ndarray) -> np.ndarray:
    """The part of some rows, one after another, that this process is to read; all have equally many."""
    each = -(-len(rows) // count())
    return np.resize(rows, each * count())[jax.process_index() * each :][:each]


def gathered(parts: PyTree[np.ndarray], length: int) -> PyTree[np.ndarray]:
    """What all processes have read of their shares of so many rows, in the order of the rows."""
    return jax.tree.map(lambda leaf: leaf[:length], multihost_utils.process_allgather(parts, tiled=True))
