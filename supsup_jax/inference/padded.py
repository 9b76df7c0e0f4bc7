"""One compiled program for the evaluations of a run after different numbers of tasks: banks padded to one size."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from supsup_jax.inference.search import Search
from supsup_jax.inference.searches import OneShot, gradient_among
from supsup_jax.model import Model
from supsup_jax.system import backend

# Among at most this number of tasks, compiling takes longer than the products with the empty masks.
_CAPACITY = 32


def padded(model: Model, search: Search | None) -> Model:
    """Return the model with further tasks, whose masks are empty and which `pick_among` ignores.

    The model is not changed if it has many tasks already, if its tasks have more than packed masks, if these are
    divided among devices, or if the search needs the number of tasks to be compiled. Accelerators compute tasks side by
    side: there it is not changed either.
    """
    is_plain = model.has_counts and not jax.tree.leaves(model.stats) and model.shards is None
    if type(search) is not OneShot or model.num_tasks >= _CAPACITY or not is_plain or backend.is_accelerator():
        return model

    def leaf(rows: Any) -> np.ndarray:  # on the host, where nothing is compiled for each number of tasks
        rows = np.asarray(rows)
        return np.pad(rows, [*[(0, 0)] * (rows.ndim - 1), (0, _CAPACITY // 8 - rows.shape[-1])])

    bank = jax.tree.map(leaf, model.method.narrow(model.bank, model.num_tasks))
    return dataclasses.replace(model, bank=bank, num_tasks=_CAPACITY, num_counted=_CAPACITY)


def pick_among(
    search: Search,
    model: Model,
    num_tasks: Int[Array, ""],
    images: Float[Array, "batch height width channels"],
    images_per_pick: int,
) -> Int[Array, " picks"]:
    """Return the picks of a search among the first tasks of a model, whose number may be traced.

    Args:
        search: the search.
        model: the model that `padded` returned.
        num_tasks: number of tasks before the model was padded.
        images: normalised images.
        images_per_pick: number of consecutive images that share their task.
    """
    if type(search) is not OneShot or model.num_tasks != _CAPACITY:
        return search(model, images, images_per_pick)
    is_task = jnp.arange(model.num_tasks) < num_tasks
    # No other task keeps a weight, so the counts of all are those of the first tasks.
    scores = gradient_among(model, is_task, images, search.objective, images_per_pick, all_chosen=True)
    return jnp.where(is_task, scores, jnp.inf).argmin(-1).astype(jnp.int32)
