"""What a run has to keep in order to classify images of all its tasks, byte by byte.

Masks are counted twice: as bits, which is how they are kept here, and as the paper counts them, two bytes for each
weight that a mask keeps. Weights that are random and never trained cost the seed that they are drawn from.
"""

from typing import Any

import jax
import numpy as np

from supsup_jax import masks
from supsup_jax.methods import SupSup
from supsup_jax.model import Model
from supsup_jax.system import backend

SPARSE = "masks as sparse indices of 16 bits"
_BITS = "masks as bits"

Account = dict[str, int]
"""Bytes by what they hold. What stands under `SPARSE` is another form of the masks, and not kept besides."""


def account(model: Model) -> Account:
    """The bytes of the tasks of a model."""
    method, num_tasks = model.method, model.num_tasks
    if isinstance(method, SupSup):
        bank: Any = jax.device_get(masks.first(model.bank, num_tasks))
        kept = sum(int(np.bitwise_count(leaf).sum(dtype=np.int64)) for leaf in jax.tree.leaves(bank))
        own = {_BITS: backend.num_bytes(bank), SPARSE: 2 * kept}
    else:
        own = {method.stores: backend.num_bytes(_first(model.bank, num_tasks) if method.stacks else model.bank)}
    shared = {}
    if method.trains_weights(0):
        shared = {"shared weights": backend.num_bytes(method.shared(model.weights))}
    elif jax.tree.leaves(method.shared(model.weights)):
        shared = {"seed of the random weights": 8}
    all_of = shared | own | {"batch-norm statistics": backend.num_bytes(_first(model.stats, num_tasks))}
    return {what: size for what, size in all_of.items() if size}


def total(account: Account) -> int:
    """The bytes of all, masks as bits."""
    return sum(size for what, size in account.items() if what != SPARSE)


def total_of_paper(account: Account) -> int:
    """The bytes of all, masks as the paper counts them."""
    return sum(size for what, size in account.items() if what != _BITS)


def _first(stacked: Any, num_tasks: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[:num_tasks], stacked)
