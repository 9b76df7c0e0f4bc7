"""Searches over a bank on disk, which hold a bounded part of it in memory; see `supsup_jax.bank.files`.

The gradient needs only the base weights and the counts of the bank. The host then reads rows in blocks, and the masks
of the tasks on a shortlist; compiled functions add up their products. `Shortlist` follows the same rule as in memory.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from supsup_jax.bank import bits as banks
from supsup_jax.bank import gradients
from supsup_jax.bank.files import BankFiles
from supsup_jax.bank.segments import AHEAD, read_ahead
from supsup_jax.errors import ArgumentError, UserError
from supsup_jax.inference.search import Search
from supsup_jax.inference.searches import OneShot, counts_of, gradients_at, grouped
from supsup_jax.inference.shortlist import (
    Rows,
    Shortlist,
    is_settled,
    least_importance,
    listed,
    rows_of,
    scores_of_sums,
    settled,
    targets_of,
)
from supsup_jax.methods import Method
from supsup_jax.model import Model
from supsup_jax.networks import Stats, Weights
from supsup_jax.registry import name_of
from supsup_jax.system import backend, numerics

MEMORY = 2**30
"""Default limit of the memory of a search in bytes."""

# With blocks of this size a disk is read at its full rate.
_BLOCK = 2**25

# The number of rows of a block is a multiple of this number, which are added at once.
_STEP = 16

# Bytes of each row to multiply by many gradients at once, so that their sums stay in the cache of a core.
_TILE = 2**9


class Sizes(NamedTuple):
    """Sizes that keep a search within its memory.

    Attributes:
        picks: number of picks that are searched together.
        rows: number of rows of a block.
    """

    picks: int
    rows: int


def sizes_within(memory: int, bank: BankFiles, shortlist: int = 0) -> Sizes:
    """Return the sizes of a search.

    Args:
        memory: the limit in bytes.
        bank: the bank.
        shortlist: number of masks that are read at once.

    Raises:
        ArgumentError: if the memory is too small.
    """
    weights, tasks, width = len(bank.counts), bank.num_tasks, bank.rows.layout.num_bytes
    # Base weights, counts, shares and variances; the checksums of rows and masks; the masks of the list and a copy.
    shared = 4 * (6 * weights + tasks) + 2 * shortlist * bank.masks.layout.num_bytes
    pick = 4 * (5 * weights + 6 * tasks)  # gradient, square, importance and copies; sums, scores and copies
    copies = AHEAD + 2  # some blocks are read, one is added, and one may be on the device
    block = copies * _STEP * width
    remaining = memory - shared - pick - block
    if remaining < 0:
        raise ArgumentError("memory", memory, f"must be at least {memory - remaining} bytes for this bank")
    most = min(_BLOCK, (block + remaining // 2) // copies)  # half of what remains for blocks
    together = 1 + remaining // 2 // pick
    rows = min(most // (_STEP * width), -(-weights // _STEP)) * _STEP
    return Sizes(min(together, max(1, backend.gradient_bytes() // (4 * weights))), rows)


def images_at_once(memory: int, image_shape: tuple[int, ...]) -> int:
    """Return the number of normalised images that take at most a small part of the memory."""
    return max(1, memory // 64 // (4 * math.prod(image_shape)))


def check(search: Search, method: Method) -> None:
    """Check that a search can read a bank on disk.

    Raises:
        UserError: if it needs the bank in memory, or the method superposes other factors than masks.
    """
    if type(search) not in (OneShot, Shortlist):
        raise UserError(
            f"search {name_of('search', search)} needs all masks in memory; give shortlist, which reads a part of them "
            "from disk, or one_shot, which reads all"
        )
    if not method.superposes_masks:
        raise UserError(
            f"method {name_of('method', method)} superposes other factors than masks, which needs its bank in memory; "
            "restore the run without bank_on_disk, or give the task"
        )


def model_on_disk(net: Any, method: Any, weights: Weights, stats: Stats, bank: BankFiles) -> Model:
    """Return a model without its bank, for `scores`.

    Args:
        net: the network.
        method: a method with masks.
        weights: the base weights.
        stats: arrays or shapes of the batch-norm statistics of one task.
        bank: the bank.
    """
    leaves, structure = jax.tree.flatten(weights)
    bounds = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]
    counts = [part.reshape(leaf.shape) for part, leaf in zip(np.split(bank.counts, bounds), leaves, strict=True)]
    # A leading axis of one task: the mean over all tasks is their mean.
    mean = jax.tree.unflatten(jax.tree.structure(stats), [leaf[None] for leaf in bank.mean_stats()])
    known: dict[str, Any] = {"counts": structure.unflatten(counts), "num_counted": bank.num_tasks}
    return jax.device_put(
        Model(net=net, method=method, num_tasks=bank.num_tasks, weights=weights, bank=None, stats=mean, **known)
    )


def scores(
    model: Model,
    bank: BankFiles,
    images: Float[Array | np.ndarray, "batch height width channels"],
    search: Search,
    images_per_pick: int = 1,
    *,
    memory: int = MEMORY,
) -> Iterator[Float[Array, "picks tasks"]]:
    """Yield the scores of some picks at a time, as `search.scores` returns them for a bank in memory.

    Args:
        model: see `model_on_disk`.
        bank: the bank.
        images: normalised images.
        search: `OneShot`, which reads the whole bank, or `Shortlist`.
        images_per_pick: number of consecutive images that share their task.
        memory: limit in bytes of what the search holds, without the program and what it compiles.

    Raises:
        UserError: if the search needs all masks in memory, the memory is too small, or the bank is damaged.
        ValueError: if the images do not divide into picks.
    """
    check(search, model.method)
    assert isinstance(search, OneShot)
    groups = grouped(jnp.asarray(images), images_per_pick)
    lists = search if isinstance(search, Shortlist) and bank.num_tasks > search.shortlist else None
    sizes = sizes_within(memory, bank, lists.shortlist if lists else 0)
    together = 1 if lists and not lists.one_task else sizes.picks
    for first in range(0, len(groups), together):
        yield _found(model, bank, groups[first : first + together], search, lists, sizes)


@numerics.with_fixed_flags
def _found(
    model: Model, bank: BankFiles, groups: Array, search: OneShot, lists: Shortlist | None, sizes: Sizes
) -> Float[Array, "picks tasks"]:
    """Return the scores of picks that are searched together: by a list, or else by all rows."""
    rows = _rows(model, groups, search)
    if lists:
        return _shortlisted(bank, rows, lists, sizes)
    columns = np.concatenate(jax.device_get(rows.columns), axis=1)
    return _projected(bank, columns, np.arange(len(bank.counts)), sizes)


@partial(jax.jit, static_argnames=("search",))
def _rows(model: Model, groups: Array, search: OneShot) -> Rows:
    """Return the gradients of some picks, and the importance of each row."""
    share_kept = jax.tree.map(lambda leaf: leaf / model.num_tasks, counts_of(model))
    columns = gradients.by_leaf(gradients_at(model, groups, share_kept, search.objective))
    return rows_of([leaf.reshape(-1) for leaf in jax.tree.leaves(share_kept)], columns)


def _shortlisted(bank: BankFiles, rows: Rows, search: Shortlist, sizes: Sizes) -> Float[Array, "picks tasks"]:
    """Return the scores of picks that share the rows that are read, and the list; see `shortlist`."""
    columns, importance = (
        np.concatenate(jax.device_get(leaves), axis=-1) for leaves in (rows.columns, rows.importance)
    )
    measured, least_before = jnp.zeros((len(columns), bank.num_tasks), jnp.float32), np.float32(np.inf)
    found, is_clear = measured, jnp.zeros(len(columns), bool)
    for target in targets_of(search.share, len(importance)):
        least = np.asarray(_least(rows, target))
        chosen = np.flatnonzero((importance >= least) & (importance < least_before))
        measured += _projected(bank, columns, chosen, sizes)
        among = _listed(rows, measured, least, search.shortlist)
        exact = _exact(bank.read_masks(np.asarray(among.tasks)).T, columns)
        found, is_clear = _settled(among, measured, exact, search.margin)
        least_before = least
        if is_settled(is_clear):
            break
    unclear = np.flatnonzero(~np.asarray(is_clear))
    if len(unclear):
        found = found.at[unclear].set(_projected(bank, columns[unclear], np.arange(len(importance)), sizes))
    return found


_least = jax.jit(least_importance)
_listed = jax.jit(listed, static_argnames=("number",))
_settled = jax.jit(settled)


def _projected(
    bank: BankFiles, columns: Float[np.ndarray, "picks weights"], wanted: np.ndarray, sizes: Sizes
) -> Float[Array, "picks tasks"]:
    """Return the products of gradients with some rows of the bank, for all tasks."""
    total = jnp.zeros((len(columns), 8, bank.rows.layout.num_bytes), jnp.float32)
    size = min(sizes.rows, _STEP * 2 ** math.ceil(math.log2(max(1, len(wanted) / _STEP))))  # few programs
    for part, block in read_ahead(bank.rows, wanted, size):
        values = columns[:, wanted[part]]
        values = np.pad(values, [(0, 0), (0, len(block) - values.shape[1])])  # the other rows of the block do not count
        shown = jax.device_put(block)  # on a CPU without a copy
        total = jax.block_until_ready(_added(total, shown, values))  # the block is overwritten next
    return scores_of_sums(total, bank.num_tasks)


@partial(jax.jit, donate_argnums=0)
def _added(
    total: Float[Array, "picks 8 bytes"], block: UInt8[Array, "rows bytes"], columns: Float[Array, "picks rows"]
) -> Float[Array, "picks 8 bytes"]:
    """Add the products of gradients with a block of rows; those of many gradients for some tasks at a time."""
    width = block.shape[1]
    size = width if banks.prefers_sums(len(columns)) else min(width, _TILE)

    def add(start: Array | int, size: int, total: Array) -> Array:
        products = banks.project_rows(jax.lax.dynamic_slice_in_dim(block, start, size, axis=1), columns)
        before = jax.lax.dynamic_slice_in_dim(total, start, size, axis=2)
        return jax.lax.dynamic_update_slice_in_dim(total, before + products, start, axis=2)

    if size == width:
        return total + banks.project_rows(block, columns)
    total = jax.lax.fori_loop(0, width // size, lambda index, total: add(index * size, size, total), total)
    return add(width - width % size, width % size, total) if width % size else total


@jax.jit
def _exact(masks: UInt8[Array, "bytes listed"], columns: Float[Array, "picks weights"]) -> Float[Array, "picks listed"]:
    """Return the products of gradients with whole masks, whose bits are those of consecutive weights."""
    places = jnp.arange(8, dtype=jnp.uint8)[:, None]
    padded = jnp.pad(columns, [(0, 0), (0, 8 * len(masks) - columns.shape[1])])

    def add(total: Array, masks: Array, columns: Array) -> Array:
        bits = ((masks[:, None] >> places) & 1).astype(jnp.float32).reshape(-1, masks.shape[1])
        return total + jnp.matmul(columns.reshape(len(columns), -1), bits, precision="highest")

    zeros = jnp.zeros((len(columns), masks.shape[1]), jnp.float32)
    size = max(1, backend.slice_bytes() // (32 * masks.shape[1]))
    return add(*banks.over_slices(add, zeros, masks, padded.reshape(len(columns), -1, 8), size))
