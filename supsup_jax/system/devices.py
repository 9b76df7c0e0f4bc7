"""Independent tasks over all devices, or one task's batches. No other file knows how many there are.

Devices are those of this process. Only the batches that `data_parallel` shares go over those of all hosts.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PyTree

from supsup_jax.system import backend, numerics

AXIS = "devices"
"""The mapped axis of the devices that share a batch."""

# More tasks side by side than this on a device put too much work at risk between checkpoints.
_MOST_TASKS_AT_ONCE = 128

# Every device has a copy of the data set, so cores without end would fill the memory.
_MOST_CPU_DEVICES = 32

# A part of an evaluation takes about as many seconds: less than there are between SIGTERM and SIGKILL.
_PART = 5.0

# The share of a device's memory that a chunk of tasks may take.
_MEMORY_SHARE = 0.5


def use_all_cores() -> None:
    """Makes one CPU device of each core; call it before JAX computes anything.

    Each task then trains on a core of its own, which is faster than all cores sharing the products of one task. Where
    JAX has computed before, as in a notebook, its devices stay as they are.
    """
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", min(backend.cores(), _MOST_CPU_DEVICES))


def tasks_at_once(bytes_per_task: int, convolutions: bool = False) -> int:
    """How many tasks to learn at a time, so that they fit in memory and every device has some.

    On a CPU tasks run one after another on each device, so memory sets no limit, and a small chunk is saved soon:
    8 tasks, which fill a byte of a bank, or one for each device. With convolutions a task takes long, and there is one
    for each device everywhere.

    Args:
        bytes_per_task: what training one task takes on the device.
        convolutions: whether the network has any.
    """
    devices = jax.local_devices()
    if convolutions:
        return len(devices)
    if not backend.is_accelerator():
        return len(devices) * -(-8 // len(devices))
    return len(devices) * max(1, min(_MOST_TASKS_AT_ONCE, _fitting(bytes_per_task)))


def parts(first: int, stop: int, capacity: int) -> Iterator[slice]:
    """Divides tasks into parts of some seconds, so that what computes them can be stopped, and shows how far it is.

    How many tasks a part has is told by the time that the last one took. An accelerator computes all that side by side
    fit, however many are wanted: there a part has as many as it may.

    Args:
        first: the first task.
        stop: the task before which they end.
        capacity: the most tasks of a part.

    Yields:
        A part, which is to be computed before the next one is asked for.
    """
    fewest = capacity if backend.is_accelerator() else min(jax.local_device_count(), capacity)
    count = fewest
    while first < stop:
        started, count = time.perf_counter(), min(count, stop - first)
        yield slice(first, first + count)
        first += count
        count = min(capacity, max(fewest, int(_PART * count / (time.perf_counter() - started))))


def _fitting(bytes_per_task: int) -> int:
    """How many tasks fit side by side in the memory of an accelerator."""
    return int(_MEMORY_SHARE * backend.memory(jax.local_devices()[0])) // bytes_per_task


def replicate(tree: PyTree[Any]) -> PyTree[Any]:
    """Puts arrays on every device."""
    return jax.device_put(tree, NamedSharding(_mesh(), P()))


def over_tasks(
    function: Callable[[Any, Any], Any],
    bytes_per_task: int | None = None,
    convolutions: bool = False,
    *,
    to_host: bool = False,
) -> Callable[..., PyTree[Any]]:
    """Maps a function of one task over many, spread over all devices, in one jitted call.

    On each device tasks run one after another on a CPU and side by side, by `vmap`, on an accelerator; with
    convolutions, of which `vmap` over kernels makes slow grouped ones, one after another there too.

    Args:
        function: called as `function(shared, task)`.
        bytes_per_task: if given, no more tasks run side by side on an accelerator than fit in its memory.
        convolutions: whether the network has any.
        to_host: whether the results come to the host, where taking those that count compiles nothing.

    Returns:
        A function of `(shared, tasks, capacity)`, where every leaf of `tasks` and of what it returns has a leading
        task axis. It is compiled once for each capacity, the most tasks that are to come at a time; by default as
        many as there are.
    """

    def on_device(shared: Any, tasks: Any, count: Array) -> Any:
        if convolutions or not backend.is_accelerator():
            return _one_after_another(partial(function, shared), tasks, count[0])
        capacity = len(jax.tree.leaves(tasks)[0])
        side_by_side = max(1, min(capacity, _fitting(bytes_per_task) if bytes_per_task else capacity))
        return jax.lax.map(partial(function, shared), tasks, batch_size=side_by_side)

    @jax.jit
    def mapped(shared: Any, tasks: Any, count: Array) -> Any:
        return jax.shard_map(
            on_device, mesh=_mesh(), in_specs=(P(), P("tasks"), P("tasks")), out_specs=P("tasks"), check_vma=False
        )(shared, tasks, count)

    def call(shared: Any, tasks: Any, capacity: int | None = None) -> Any:
        # Every device has equally many places. Those that are left over, at the end of each device's, hold some task
        # again: on a CPU they are passed over, and elsewhere what they give is dropped.
        count = len(jax.tree.leaves(tasks)[0])
        devices = jax.local_device_count()
        share, places = -(-count // devices), -(-max(count, capacity or 0) // devices)
        task_of = np.arange(devices)[:, None] * share + np.arange(places)
        used = (np.arange(places) < share) & (task_of < count)
        counts = used.sum(1, dtype=np.int32)
        if not used.all():
            filled = np.where(used, task_of, 0).reshape(-1)
            tasks = jax.tree.map(lambda leaf: leaf[filled], tasks)
        arguments = replicate(shared), *jax.device_put((tasks, counts), NamedSharding(_mesh(), P("tasks")))
        with numerics.guarded():
            results = mapped(*arguments)
        if to_host:
            results = jax.device_get(results)
        return results if used.all() else jax.tree.map(lambda leaf: leaf[np.flatnonzero(used)], results)

    return call


def _one_after_another(function: Callable[[Any], Any], tasks: Any, count: Array) -> Any:
    """`lax.map` over the first `count` tasks, a number that need not be known when it is compiled."""

    def step(index: Array, results: Any) -> Any:
        result = function(jax.tree.map(lambda leaf: leaf[index], tasks))
        return jax.tree.map(lambda all_, one: all_.at[index].set(one), results, result)

    capacity = len(jax.tree.leaves(tasks)[0])
    one = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], tasks))
    empty = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), one)
    return jax.lax.fori_loop(0, count, step, empty)


def _mesh(axis: str = "tasks") -> Mesh:
    return Mesh(np.asarray(jax.local_devices()), (axis,))


class Shares(NamedTuple):
    """What the devices of this process have of a batch that all devices share.

    Attributes:
        places: places in the batch; every device has equally many.
        counts: 1, or 0 for a place that comes again, only to fill the share.
    """

    places: Int[np.ndarray, "devices share"]
    counts: Float[np.ndarray, "devices share"]


def shares(batch: int) -> Shares:
    """Divides a batch among all devices as equally as may be."""
    devices = jax.device_count()
    own = [number for number, device in enumerate(jax.devices()) if device.process_index == jax.process_index()]
    firsts = np.array([batch * device // devices for device in own])[:, None]
    lengths = np.array([batch * (device + 1) // devices for device in own])[:, None] - firsts
    within = np.arange(-(-batch // devices))
    counts = within < lengths
    return Shares(np.where(counts, firsts + within, np.minimum(firsts, batch - 1)), counts.astype(np.float32))


def data_parallel(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], PyTree[Any]]:
    """Runs a function on all devices of all hosts at once, each with its share of a batch.

    Args:
        function: called on every device as `function(share, common)`. What it returns has to be the same on all, as
            `average` makes it.

    Returns:
        A function of `(shares, common)`, where every leaf of `shares` has a leading axis of this process's devices.
    """
    return jax.pmap(function, axis_name=AXIS, in_axes=(0, None), out_axes=None)


def average(tree: PyTree[Any]) -> PyTree[Any]:
    """The mean over all devices, within a function that is `data_parallel`."""
    return jax.lax.pmean(tree, AXIS)


def spread(tree: PyTree[Any]) -> PyTree[Any]:
    """Puts arrays with a leading axis of this process's devices there, each its own part, and does not wait for it."""
    return jax.device_put(tree, NamedSharding(_mesh(AXIS), P(AXIS)))


def fits(num_bytes: int) -> bool:
    """Whether every device of this process can have a copy of so many bytes, beside what it computes."""
    memory = backend.memory(jax.local_devices()[0])
    if not backend.is_accelerator():
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
    return num_bytes <= _MEMORY_SHARE * memory
