"""Distributes independent tasks, or the batches of one task, over devices. No other file knows their number.

Devices are those of this process. Only batches shared with `data_parallel` span the devices of all hosts.
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
"""Name of the mapped axis of the devices that share a batch."""

# More tasks side by side on a device would put too much work between two checkpoints at risk.
_MOST_TASKS_AT_ONCE = 128

# Every device has a copy of the data set, so one device for each of very many cores would fill the memory.
_MOST_CPU_DEVICES = 32

# Seconds that a part of an evaluation takes, roughly: less than the time between SIGTERM and SIGKILL.
_PART_SECONDS = 5.0

# The fraction of a device's memory that a chunk of tasks may take.
_MEMORY_SHARE = 0.5


def use_all_cores() -> None:
    """Create one CPU device for each core. Call this before JAX computes anything.

    Each task then trains on a separate core, which is faster than sharing one task's products among all cores. If JAX
    has computed before, as in a notebook, its devices do not change.
    """
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", min(backend.cores(), _MOST_CPU_DEVICES))


def tasks_at_once(bytes_per_task: int, convolutions: bool = False) -> int:
    """Return the number of tasks to learn at a time, so that they fit in memory and every device has some.

    On a CPU, tasks run one after another on each device, so memory sets no limit, and small chunks are saved sooner:
    8 tasks, which fill a byte of a bank, or one task per device. With convolutions, where a task takes long, and `vmap`
    over kernels makes slow grouped convolutions, there is one task per device on every backend.

    Args:
        bytes_per_task: the device memory that training one task takes.
        convolutions: whether the network has convolutions.
    """
    devices = jax.local_devices()
    if convolutions:
        return len(devices)
    if not backend.is_accelerator():
        return len(devices) * -(-8 // len(devices))
    return len(devices) * max(1, min(_MOST_TASKS_AT_ONCE, _fitting(bytes_per_task)))


def parts(first: int, stop: int, capacity: int, is_fixed: bool = False) -> Iterator[slice]:
    """Divide tasks into parts of a few seconds each, for progress lines and so that the work can be interrupted.

    The duration of the last part determines the size of the next. On an accelerator, tasks that fit in memory run side
    by side and take the same time for any number, so each part has `capacity` tasks.

    Args:
        first: the first task.
        stop: the end of the range of tasks, exclusive.
        capacity: the maximum number of tasks in a part.
        is_fixed: whether every part has `capacity` tasks, so that the parts are the same in all processes.

    Yields:
        A part, which the caller computes before it asks for the next one.
    """
    fewest = capacity if is_fixed or backend.is_accelerator() else min(jax.local_device_count(), capacity)
    count = fewest
    while first < stop:
        started, count = time.perf_counter(), min(count, stop - first)
        yield slice(first, first + count)
        first += count
        count = min(capacity, max(fewest, int(_PART_SECONDS * count / (time.perf_counter() - started))))


def _fitting(bytes_per_task: int) -> int:
    """Return the number of tasks that fit side by side in the memory of an accelerator."""
    return int(_MEMORY_SHARE * backend.memory(jax.local_devices()[0])) // bytes_per_task


def replicate(tree: PyTree[Any]) -> PyTree[Any]:
    """Copy arrays to every device."""
    return jax.device_put(tree, NamedSharding(_mesh(), P()))


def over_tasks(
    function: Callable[[Any, Any], Any],
    bytes_per_task: int | None = None,
    *,
    to_host: bool = False,
) -> Callable[..., PyTree[Any]]:
    """Map a function of one task over many tasks, spread over all devices, in one jitted call.

    On each device, tasks run one after another on a CPU and side by side, by `vmap`, on an accelerator.

    Args:
        function: called as `function(shared, task)`.
        bytes_per_task: if given, limits the tasks side by side on an accelerator to as many as fit in its memory.
        to_host: whether to move the results to the host, where dropping the padding compiles nothing.

    Returns:
        A function of `(shared, tasks, capacity)`. Every leaf of `tasks` and of the result has a leading task axis. It
        is compiled once for each capacity, the maximum number of tasks in a call, which defaults to the number of
        `tasks`.
    """

    def on_device(shared: Any, tasks: Any, count: Array) -> Any:
        capacity = len(jax.tree.leaves(tasks)[0])
        side_by_side = min(capacity, _fitting(bytes_per_task) if bytes_per_task else capacity)
        if side_by_side <= 1 or not backend.is_accelerator():
            return _one_after_another(partial(function, shared), tasks, count[0])
        return jax.lax.map(partial(function, shared), tasks, batch_size=side_by_side)

    @jax.jit
    def mapped(shared: Any, tasks: Any, count: Array) -> Any:
        return jax.shard_map(
            on_device, mesh=_mesh(), in_specs=(P(), P("tasks"), P("tasks")), out_specs=P("tasks"), check_vma=False
        )(shared, tasks, count)

    def call(shared: Any, tasks: Any, capacity: int | None = None) -> Any:
        # Every device has the same number of places. Surplus places, last on each device, repeat a task: a CPU skips
        # them, and on accelerators their results are dropped.
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


def in_turn(function: Callable[[Any, Any], Any]) -> Callable[..., PyTree[Any]]:
    """Map a function of one task over tasks in turn, each on all devices that `shared` is on, in one jitted call.

    Args:
        function: called as `function(shared, task)`.

    Returns:
        A function as that of `over_tasks`; its results are on the host.
    """

    @jax.jit
    def mapped(shared: Any, tasks: Any, count: Array) -> Any:
        return _one_after_another(partial(function, shared), tasks, count)

    def call(shared: Any, tasks: Any, capacity: int | None = None) -> Any:
        count = len(jax.tree.leaves(tasks)[0])
        rows = np.minimum(np.arange(max(count, capacity or 0)), count - 1)
        filled = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tasks)
        results = jax.device_get(mapped(shared, filled, np.int32(count)))
        return jax.tree.map(lambda leaf: leaf[:count], results)

    return call


def _one_after_another(function: Callable[[Any], Any], tasks: Any, count: Array) -> Any:
    """Return `lax.map` over the first `count` tasks, a number that may be traced."""

    def step(index: Array, results: Any) -> Any:
        result = function(jax.tree.map(lambda leaf: leaf[index], tasks))
        return jax.tree.map(lambda all_, leaf: all_.at[index].set(leaf), results, result)

    capacity = len(jax.tree.leaves(tasks)[0])
    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], tasks))
    empty = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), shapes)
    return jax.lax.fori_loop(0, count, step, empty)


def _mesh(axis: str = "tasks") -> Mesh:
    return Mesh(np.asarray(jax.local_devices()), (axis,))


class Shares(NamedTuple):
    """The shares of this process's devices in a batch that all devices of all hosts share.

    Attributes:
        places: indices into the batch, the same number for every device.
        counts: 1, or 0 for an index that is repeated only to fill the share.
    """

    places: Int[np.ndarray, "devices share"]
    counts: Float[np.ndarray, "devices share"]


def shares(batch: int) -> Shares:
    """Divide a batch among all devices as equally as possible."""
    devices = jax.device_count()
    local = [number for number, device in enumerate(jax.devices()) if device.process_index == jax.process_index()]
    firsts = np.array([batch * device // devices for device in local])[:, None]
    lengths = np.array([batch * (device + 1) // devices for device in local])[:, None] - firsts
    within = np.arange(-(-batch // devices))
    counts = within < lengths
    return Shares(np.where(counts, firsts + within, np.minimum(firsts, batch - 1)), counts.astype(np.float32))


def data_parallel(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], PyTree[Any]]:
    """Run a function on all devices of all hosts at once, each with its share of a batch.

    Args:
        function: called on every device as `function(share, common)`. It must return the same values on all devices,
            for example by `average`.

    Returns:
        A function of `(shares, common)`. Every leaf of `shares` has a leading axis of this process's devices.
    """
    return jax.pmap(function, axis_name=AXIS, in_axes=(0, None), out_axes=None)


def average(tree: PyTree[Any]) -> PyTree[Any]:
    """Return the mean over all devices, inside a `data_parallel` function."""
    return jax.lax.pmean(tree, AXIS)


def spread(tree: PyTree[Any]) -> PyTree[Any]:
    """Start to copy arrays with a leading axis of this process's devices, one part to each; do not wait for it."""
    return jax.device_put(tree, NamedSharding(_mesh(AXIS), P(AXIS)))


def fits(num_bytes: int) -> bool:
    """Return whether every device of this process can hold `num_bytes` in addition to what it computes."""
    memory = backend.memory(jax.local_devices()[0])
    if not backend.is_accelerator():
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
    return num_bytes <= _MEMORY_SHARE * memory
