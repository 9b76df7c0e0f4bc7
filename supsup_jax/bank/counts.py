"""Counts of the tasks that keep each weight, which models hold so that a superposition does not read the bank."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree, UInt8

from supsup_jax.bank import bits as banks
from supsup_jax.system import backend


def count_all(bank: banks.Bank, num_tasks: int) -> PyTree[Int[Array | np.ndarray, "..."]]:
    """Count the tasks that keep each weight, among the first `num_tasks`.

    Args:
        bank: leaves uint8 of shape `(*weight.shape, bytes)`; NumPy arrays stay on the host, where nothing is compiled.
        num_tasks: the number of tasks to count.

    Returns:
        A pytree of int32 leaves of shape `weight.shape`.

    Raises:
        ValueError: if the bank cannot hold `num_tasks` tasks, or `num_tasks` is 0.
    """
    bank = banks.narrow(bank, num_tasks)
    if all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(bank)):
        return jax.tree.map(partial(_count_on_host, last=np.uint8(0xFF >> -num_tasks % 8)), bank)
    return _count_on_device(bank, num_tasks)


def _count_on_host(leaf: UInt8[np.ndarray, "*rows bytes"], last: np.uint8) -> Int[np.ndarray, "*rows"]:
    """Count the bits of each row; `last` are the bits of its last byte that count."""
    rows = leaf.reshape(-1, leaf.shape[-1])
    counts = np.bitwise_count(rows[:, -1] & last).astype(np.int32)
    size = max(1, backend.slice_bytes() // rows.shape[1])  # counts of bytes take as much memory as the bytes
    for start in range(0, len(rows), size):
        piece = slice(start, start + size)
        counts[piece] += np.bitwise_count(rows[piece, :-1]).sum(1, dtype=np.int32)
    return counts.reshape(leaf.shape[:-1])


@partial(jax.jit, static_argnames=("num_tasks",))
def _count_on_device(bank: banks.Bank, num_tasks: int) -> PyTree[Int[Array, "..."]]:
    counted = banks.count(bank, jnp.ones((1, num_tasks), bool))
    return jax.tree.map(lambda leaf: leaf[0].astype(jnp.int32), counted)
