"""Independent tasks over all devices. No other file knows how many there are."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from supsup_jax import backend

# More tasks side by side than this on a device put too much work at risk between checkpoints.
_MOST_TASKS_AT_ONCE = 128

# Every device has a copy of the data set, so cores without end would fill the memory.
_MOST_CPU_DEVICES = 32

# The share of a device's memory that a chunk of tasks may take.
_MEMORY_SHARE = 0.5


def use_all_cores() -> None:
    """Makes one CPU device of each core; call it before JAX computes anything.

    Each task then trains on a core of its own, which is faster than all cores sharing the products of one task.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(cores, _MOST_CPU_DEVICES))


def tasks_at_once(bytes_per_task: int, convolutions: bool = False) -> int:
    """How many tasks to learn at a time, so that they fit in memory and every device has some.

    On a CPU tasks run one after another on each device, so memory sets no limit, and a small chunk is saved soon:
    8 tasks, which fill a byte of a bank, or one for each device. With convolutions a task takes long, and there is one
    for each device everywhere.

    Args:
        bytes_per_task: what training one task takes on the device.
        convolutions: whether the network has any.
    """
    devices = jax.devices()
    if convolutions:
        return len(devices)
    if not backend.is_accelerator():
        return len(devices) * -(-8 // len(devices))
    return len(devices) * max(1, min(_MOST_TASKS_AT_ONCE, _fitting(bytes_per_task)))


def _fitting(bytes_per_task: int) -> int:
    """How many tasks fit side by side in the memory of an accelerator."""
    return int(_MEMORY_SHARE * backend.memory(jax.devices()[0])) // bytes_per_task


def replicate(tree: PyTree[Any]) -> PyTree[Any]:
    """Puts arrays on every device."""
    return jax.device_put(tree, NamedSharding(_mesh(), P()))


def over_tasks(
    function: Callable[[Any, Any], Any], bytes_per_task: int | None = None, convolutions: bool = False
) -> Callable[..., PyTree[Any]]:
    """Maps a function of one task over many, spread over all devices, in one jitted call.

    On each device tasks run one after another on a CPU and side by side, by `vmap`, on an accelerator; with
    convolutions, of which `vmap` over kernels makes slow grouped ones, one after another there too.

    Args:
        function: called as `function(shared, task)`.
        bytes_per_task: if given, no more tasks run side by side on an accelerator than fit in its memory.
        convolutions: whether the network has any.

    Returns:
        A function of `(shared, tasks, capacity)`, where every leaf of `tasks` and of what it returns has a leading
        task axis. It is compiled once for each capacity, the most tasks that are to come at a time; by default as
        many as there are.
    """

    def on_device(shared: Any, tasks: Any, count: Array) -> Any:
        if convolutions or not backend.is_accelerator():
            return _one_after_another(partial(function, shared), tasks, count)
        capacity = len(jax.tree.leaves(tasks)[0])
        side_by_side = max(1, min(capacity, _fitting(bytes_per_task) if bytes_per_task else capacity))
        return jax.lax.map(partial(function, shared), tasks, batch_size=side_by_side)

    @jax.jit
    def mapped(shared: Any, tasks: Any, count: Array) -> Any:
        return jax.shard_map(
            on_device, mesh=_mesh(), in_specs=(P(), P("tasks"), P()), out_specs=P("tasks"), check_vma=False
        )(shared, tasks, count)

    def call(shared: Any, tasks: Any, capacity: int | None = None) -> Any:
        # Every device takes equally many tasks. Places that are left over, at the end of each device's, hold some
        # task again, and what they give is dropped.
        count = len(jax.tree.leaves(tasks)[0])
        devices = jax.device_count()
        share, places = -(-count // devices), -(-max(count, capacity or 0) // devices)
        task_of = np.arange(devices)[:, None] * share + np.arange(places)
        used = (np.arange(places) < share) & (task_of < count)
        filled = np.where(used, task_of, 0).reshape(-1)
        results = mapped(shared, jax.tree.map(lambda leaf: leaf[filled], tasks), np.int32(share))
        return jax.tree.map(lambda leaf: leaf[np.flatnonzero(used)], results)

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


def _mesh() -> Mesh:
    return Mesh(np.asarray(jax.devices()), ("tasks",))
