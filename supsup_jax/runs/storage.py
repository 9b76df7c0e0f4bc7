"""The bytes that a run has to keep in order to classify images of all its tasks, by what takes them.

Masks are counted twice: as bits, which is how they are kept here, and as the paper counts them, two bytes for each
weight that a mask keeps. Weights that are random and never trained cost the seed that they are drawn from.
"""

import jax

from supsup_jax.methods.supsup import BITS, SPARSE
from supsup_jax.model import Model
from supsup_jax.system import backend

Account = dict[str, int]
"""Bytes by what takes them. `SPARSE` is a different form of the masks, which is not kept as well."""


def account(model: Model) -> Account:
    """The bytes of the tasks of a model."""
    stats = jax.tree.map(lambda leaf: leaf[: model.num_tasks], model.stats)
    sizes = model.method.account(model.weights, model.bank, model.num_tasks)
    sizes |= {"batch-norm statistics": backend.num_bytes(stats)}
    return {name: size for name, size in sizes.items() if size}


def total(account: Account) -> int:
    """The bytes of all, masks as bits."""
    return sum(size for name, size in account.items() if name != SPARSE)


def total_of_paper(account: Account) -> int:
    """The bytes of all, masks as the paper counts them."""
    return sum(size for name, size in account.items() if name != BITS)
