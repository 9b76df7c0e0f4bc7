"""The binary search for tasks, which halves them round by round (Section 3.3 of the paper)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from supsup_jax.bank import bits as banks
from supsup_jax.checks import check_count
from supsup_jax.inference.objectives import Objective, entropy
from supsup_jax.inference.searches import OneShot, count, derivatives_at, grouped, in_chunks, narrow
from supsup_jax.model import Model
from supsup_jax.system import numerics

# Once at most 1 in this number of the tasks remain, their masks are copied to a smaller bank.
_FEWER = 16

# Among fewer tasks, compiling the rounds twice takes longer than what they save.
_LARGE = 256


@dataclass(frozen=True)
class Binary(OneShot):
    """About log₂ n rounds; each round keeps the better half of the tasks (Section 3.3).

    `scores` returns the scores of the first round. Exactly ⌈n/2⌉ tasks remain after a round, or ⌈n/base⌉ with a
    different base: the ones with the smallest derivatives, and among ties the lowest numbers.

    Attributes:
        base: each round keeps the best 1/base of the tasks; at least 2.
    """

    base: int = 2

    picks_smallest: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("base", self.base, lowest=2)

    def __call__(
        self, model: Model, images: Float[Array, "batch height width channels"], images_per_pick: int = 1
    ) -> Int[Array, " picks"]:
        """Return the task that remains after all rounds."""
        path = binary_path(model, images, self.objective, images_per_pick, self.base)
        return path[-1].argmax(-1).astype(jnp.int32)


@numerics.with_fixed_flags
@partial(jax.jit, static_argnames=("objective", "images_per_pick", "base"))
def binary_path(
    model: Model,
    images: Float[Array, "batch height width channels"],
    objective: Objective = entropy,
    images_per_pick: int = 1,
    base: int = 2,
) -> Float[Array, "rounds picks tasks"]:
    """Return the α of every round of the binary search: initially all 1/n, finally 1 for the pick.

    Args:
        model: tasks of a method that superposes.
        images: normalised images.
        objective: `entropy`, or `superfluous(real=...)`.
        images_per_pick: number of consecutive images that share their task.
        base: each round keeps the best 1/base of the tasks.

    Raises:
        ValueError: if the images do not divide into picks, or the base is less than 2.
    """
    check_count("base", base, lowest=2)
    model = narrow(model)
    sizes = [model.num_tasks]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // base))

    def search(groups: Array) -> Array:
        everything = jnp.ones((len(groups), model.num_tasks), bool)
        in_full = sum(size > model.num_tasks // _FEWER for size in sizes)
        if not _can_narrow(model, len(groups)) or in_full == len(sizes):
            rounds = _rounds(model, groups, everything, sizes[1:], objective)
        else:
            rounds = _rounds(model, groups, everything, sizes[1 : in_full + 1], objective)
            remaining, *last = sizes[in_full:]

            def last_rounds(pick: tuple[Array, Array]) -> Array:
                group, alive = pick
                tasks = jnp.flatnonzero(alive, size=remaining)
                found = _rounds(_among(model, tasks), group[None], jnp.ones((1, remaining), bool), last, objective)
                return jnp.zeros((len(last), model.num_tasks), bool).at[:, tasks].set(found[:, 0])

            narrowed = jax.lax.map(last_rounds, (groups, rounds[-1]))
            rounds = jnp.concatenate([rounds, narrowed.swapaxes(0, 1)])
        rounds = jnp.concatenate([everything[None], rounds]).astype(jnp.float32)
        return (rounds / rounds.sum(-1, keepdims=True)).swapaxes(0, 1)

    return in_chunks(search, model.weights, grouped(images, images_per_pick)).swapaxes(0, 1)


def _can_narrow(model: Model, picks: int) -> bool:
    """Return whether a pick's last tasks are faster to search in a bank of their own; many picks share products."""
    is_packed = model.method.superposes_masks and model.shards is None
    return is_packed and model.num_tasks >= _LARGE and banks.prefers_sums(picks)


def _rounds(
    model: Model,
    groups: Float[Array, "picks images height width channels"],
    alive: Bool[Array, "picks tasks"],
    sizes: Sequence[int],
    objective: Objective,
) -> Bool[Array, "rounds picks tasks"]:
    """Return which tasks remain after each round of the binary search, given the number that remain."""

    def keep_best(alive: Bool[Array, "picks tasks"], size: Array) -> tuple[Array, Array]:
        superposed = jax.tree.map(
            lambda kept: kept / alive.sum(-1).astype(kept.dtype).reshape(-1, *[1] * (kept.ndim - 1)),
            count(model, alive),
        )
        gradient = derivatives_at(model, groups, superposed, objective)
        order = jnp.where(alive, gradient, jnp.inf).argsort(-1, stable=True)
        rank = order.argsort(-1)
        alive = rank < size
        return alive, alive

    return jax.lax.scan(keep_best, alive, jnp.asarray(sizes, jnp.int32))[1]


def _among(model: Model, tasks: Int[Array, " chosen"]) -> Model:
    """Return a model of some tasks; its superpositions run with the mean statistics of all tasks, as before."""
    stats = jax.tree.map(lambda leaf: leaf[None], model.mean_stats())
    changes: dict[str, Any] = {"bank": banks.take(model.bank, tasks), "stats": stats, "num_tasks": len(tasks)}
    return dataclasses.replace(model, **changes, counts=None, num_counted=0)
