"""One run on several hosts, a process on each: all compute the same in step, and the first one reads and writes.

With one process, which is the rule, nothing here does anything.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from supsup_jax.errors import UserError


def several(coordinator: str | None) -> bool:
    """Whether a run is to have several processes: one names their coordinator, or SLURM started several."""
    return coordinator is not None or os.environ.get("SLURM_STEP_NUM_TASKS") not in (None, "", "1")


def join(coordinator: str | None, hosts: int | None, host: int | None) -> bool:
    """Joins the other processes of a run, if it has any; call it before JAX computes anything.

    Args:
        coordinator: `HOST:PORT` of the first process; without it SLURM is asked, if it started several.
        hosts: how many processes there are.
        host: which of them this is, from 0.

    Returns:
        Whether there are others.

    Raises:
        UserError: if the others cannot be reached.
    """
    if not several(coordinator):
        return False
    try:
        if coordinator is not None:
            jax.distributed.initialize(coordinator, hosts, host, cluster_detection_method="deactivate")
        else:
            jax.distributed.initialize()
            if re.fullmatch(r"1(\(x\d+\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
                # JAX takes SLURM's processes to have a GPU each. The only one of a node has all that SLURM gives it.
                jax.config.update("jax_cuda_visible_devices", "all")
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the run's other hosts cannot be reached ({' '.join(str(error).split())}); start "
            "the same command on each of them, with its own --host, within five minutes"
        ) from None
    return True


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
