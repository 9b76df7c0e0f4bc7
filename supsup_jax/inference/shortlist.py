"""One-shot search that reads a small part of the bank: maximum inner product search with a statistical margin.

The derivative with respect to αᵢ is ⟨g, Mᵢ⟩ with g = ∂L/∂W̃ ⊙ W. Let pⱼ be the share of the tasks whose masks keep
weight j. Weights with a large |gⱼ| √(pⱼ (1 − pⱼ)) make derivatives differ between tasks; the others hardly do. The
search reads the rows of the bank that belong to the former, ranks all tasks, and computes the exact derivatives of the
best ones. Over the unread weights, masks of different tasks contribute Σⱼ gⱼ pⱼ on average, with a variance of
Σⱼ gⱼ² pⱼ (1 − pⱼ). If a task outside the list comes within a margin of the best one, more rows are read.
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from supsup_jax.bank import gradients, parts
from supsup_jax.bank.gradients import Columns
from supsup_jax.bank.outer import Outer
from supsup_jax.checks import check_count, check_number
from supsup_jax.errors import ArgumentError
from supsup_jax.inference import dense
from supsup_jax.inference.searches import OneShot, counts_of, fast_gradients_at, grouped, in_chunks, narrow, project
from supsup_jax.inference.selection import smallest, threshold
from supsup_jax.methods import Method
from supsup_jax.model import Model
from supsup_jax.system import numerics


@dataclass(frozen=True)
class Shortlist(OneShot):
    """One gradient, and only the rows of the bank that decide; picks the same task as `OneShot` except in rare cases.

    The scores of the tasks on the list are exact, and so is the pick if the right task is on the list. Which tasks are
    on the list is statistical: where a task outside comes within the margin of the best one, the search reads more
    rows, and at last the whole bank. The margin is that of wrong tasks, so small shares can miss a right task. Scores
    outside the list are estimates, not below the smallest score.

    Attributes:
        shortlist: number of tasks whose scores are exact. Among at most this number, the search is `OneShot`.
        share: the fraction of the weights whose rows are read first; doubled while the margin is not reached.
        margin: the margin, in standard deviations of a wrong task's score over the unread weights.
        checked_picks: number of picks of each task that an evaluation compares with those of `OneShot`.
        one_task: whether all picks of a call belong to one task; they then share the rows and the list.

    Raises:
        ArgumentError: if a number is out of range.
    """

    derived: ClassVar[tuple[str, ...]] = ("one_task",)

    shortlist: int = 64
    share: float = 1 / 8
    margin: float = 6.0
    checked_picks: int = 1
    one_task: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("shortlist", self.shortlist)
        check_number("share", self.share)
        if self.share > 1:
            raise ArgumentError("share", self.share, "must be at most 1, which reads the whole bank")
        check_number("margin", self.margin, allow_zero=True)
        check_count("checked_picks", self.checked_picks, lowest=0)

    def serves(self, method: Method) -> bool:
        """Return whether the method superposes its masks, and not other factors."""
        return method.superposes_masks and super().serves(method)

    def for_one_task(self) -> "Shortlist":
        """Return the search whose picks share the rows and the list."""
        return dataclasses.replace(self, one_task=True)

    def check(self) -> tuple[OneShot, int] | None:
        """Return `OneShot`, and the number of picks of each task that evaluations compare with it."""
        return (OneShot(self.objective), self.checked_picks) if self.checked_picks else None

    def scores(
        self, model: Model, images: Float[Array, "batch height width channels"], images_per_pick: int = 1
    ) -> Float[Array, "picks tasks"]:
        """Return the derivatives with respect to every α, at 1/n; estimates for the tasks that are not on the list."""
        if model.num_tasks <= self.shortlist:
            return super().scores(model, images, images_per_pick)
        return shortlisted(model, images, self, images_per_pick).scores


class Shortlisted(NamedTuple):
    """Result of a search by a shortlist.

    Attributes:
        scores: exact for the tasks on the list, estimates for the others.
        share: the fraction of the weights whose rows were read for each pick; above 1 if the whole bank was read last.
    """

    scores: Float[Array, "picks tasks"]
    share: Float[Array, " picks"]


@numerics.with_fixed_flags
@partial(jax.jit, static_argnames=("search", "images_per_pick"))
def shortlisted(
    model: Model, images: Float[Array, "batch height width channels"], search: Shortlist, images_per_pick: int = 1
) -> Shortlisted:
    """Return the scores of all tasks, and how much of the bank was read.

    Args:
        model: masks over frozen weights, for more tasks than the list has.
        images: normalised images.
        search: the search.
        images_per_pick: number of consecutive images that share their task.

    Raises:
        ValueError: if the images do not divide into picks.
    """
    model = narrow(model)
    share_kept = jax.tree.map(lambda leaf: leaf / model.num_tasks, counts_of(model))
    kept = [leaf.reshape(-1) for leaf in jax.tree.leaves(share_kept)]

    def search_chunk(groups: Array) -> Array:
        columns = gradients.by_leaf(fast_gradients_at(model, groups, share_kept, search.objective))
        if search.one_task:
            found = _search(model, kept, columns, search)
        else:
            separate = jax.lax.map(
                lambda pick: _search(model, kept, [gradients.of_pick(leaf, pick) for leaf in columns], search),
                jnp.arange(len(groups)),
            )
            found = jax.tree.map(lambda leaf: leaf[:, 0], separate)
        return jnp.concatenate([found.scores, found.share[:, None]], axis=1)

    groups = grouped(images, images_per_pick)
    found = in_chunks(search_chunk, dense.arrays_of_pick(model, *groups.shape[:2], copies=_COPIES), groups)
    return Shortlisted(found[:, :-1], found[:, -1])


class _State(NamedTuple):
    """State of a search that reads more and more rows.

    Attributes:
        stage: number of the next share.
        least: the least importance of the rows that were read.
        total: sums over the rows that were read.
        scores: current scores.
        is_clear: whether the tasks outside the list are clearly worse, for each pick.
        share: the fraction of the rows that were read.
    """

    stage: Int[Array, ""]
    least: Float[Array, ""]
    total: Float[Array, "picks 8 bytes"]
    scores: Float[Array, "picks tasks"]
    is_clear: Array
    share: Float[Array, " picks"]


class Rows(NamedTuple):
    """Importance of the rows of a bank for some picks, and the moments of what they add to a wrong task's score.

    Attributes:
        columns: for each leaf the gradients of each pick.
        squares: their squares.
        kept: for each leaf the share of the tasks that keep each weight, `(rows,)`.
        variances: for each leaf the variance of the mask entries, `(rows,)`.
        of_all: variance of a score over all rows, for each pick.
        importance: for each leaf `(rows,)`: the share of the variance, summed over the picks.
    """

    columns: list[Columns]
    squares: list[Columns]
    kept: list[Array]
    variances: list[Array]
    of_all: Float[Array, " picks"]
    importance: list[Array]


class Listed(NamedTuple):
    """Ranking of all tasks by the rows that were read.

    Attributes:
        tasks: the tasks on the list.
        mean: what the unread rows add to a score on average, for each pick.
        deviation: its standard deviation for wrong tasks.
        share: the fraction of the rows that were read.
    """

    tasks: Int[Array, " listed"]
    mean: Float[Array, " picks"]
    deviation: Float[Array, " picks"]
    share: Float[Array, " picks"]


def rows_of(kept: list[Array], columns: list[Columns]) -> Rows:
    """Return the importance of the rows of a bank.

    Args:
        kept: for each leaf the share of the tasks that keep each weight, `(rows,)`.
        columns: for each leaf the gradients of each pick.
    """
    variances = [share * (1 - share) for share in kept]
    squares = [gradients.squares(leaf) for leaf in columns]
    of_all = _sums(squares, variances)
    scale = jnp.where(of_all > 0, 1 / jnp.where(of_all > 0, of_all, 1), 0)
    importance = [gradients.summed(leaf, scale) * variance for leaf, variance in zip(squares, variances, strict=True)]
    return Rows(columns, squares, kept, variances, of_all, importance)


def least_importance(rows: Rows, target: Int[Array, ""] | int) -> Float[Array, ""]:
    """Return the importance that `target` rows reach. Rows without any make no difference, and are never read."""
    return jnp.maximum(threshold(rows.importance, target), _SMALLEST)


def listed(rows: Rows, measured: Float[Array, "picks tasks"], least: Float[Array, ""], number: int) -> Listed:
    """Return the best tasks by the rows that were read, and the moments of the unread rows.

    Args:
        rows: the rows.
        measured: sums over the rows that were read.
        least: the least importance of a row that was read.
        number: number of tasks on the list.
    """
    unread = [values < least for values in rows.importance]
    unread_variance = _sums(
        rows.squares, [jnp.where(each, leaf, 0) for each, leaf in zip(unread, rows.variances, strict=True)]
    )
    mean = _sums(rows.columns, [jnp.where(each, leaf, 0) for each, leaf in zip(unread, rows.kept, strict=True)])
    # Masks that are not independent spread more than their shares suggest, where they were read and beyond.
    expected = jnp.maximum(rows.of_all - unread_variance, 1e-6 * rows.of_all)
    excess = jnp.maximum(1, measured.var(1) / jnp.where(expected > 0, expected, 1))
    share = 1 - sum(each.sum() for each in unread) / sum(map(len, unread))
    share = jnp.full(len(measured), share, jnp.float32)
    return Listed(_best(measured, number), mean, jnp.sqrt(excess * unread_variance), share)


def settled(
    among: Listed,
    measured: Float[Array, "picks tasks"],
    exact: Float[Array, "picks listed"],
    margin: float | Float[Array, ""],
) -> tuple[Float[Array, "picks tasks"], Bool[Array, " picks"]]:
    """Return the scores of all tasks, and whether no task outside the list comes within the margin of the best one.

    Args:
        among: the ranking.
        measured: sums over the rows that were read.
        exact: scores of the tasks on the list over all rows.
        margin: see `Shortlist`.
    """
    edge = measured.at[:, among.tasks].set(jnp.inf).min(1) + among.mean
    is_clear = edge - margin * among.deviation >= exact.min(1)
    return (measured + among.mean[:, None]).at[:, among.tasks].set(exact), is_clear


def is_settled(is_clear: Bool[Array, " picks"]) -> Bool[Array, ""]:
    """Return whether at most a few picks are unclear, which are cheaper to search in the whole bank one by one."""
    return (~is_clear).sum() <= len(is_clear) // _FEW


def scores_of_sums(total: Float[Array, "picks 8 bytes"], num_tasks: int) -> Float[Array, "picks {num_tasks}"]:
    """Return sums over rows of a bank in the order of the tasks."""
    return total.swapaxes(1, 2).reshape(len(total), -1)[:, :num_tasks]


def _search(model: Model, kept: list[Array], columns: list[Columns], search: Shortlist) -> Shortlisted:
    """Search with one set of rows and one list for all picks.

    Args:
        model: the masks.
        kept: for each leaf the share of the tasks that keep each weight, `(rows,)`.
        columns: for each leaf the gradients of each pick.
        search: the search.
    """
    products = model.shards or parts
    banked = [leaf.reshape(-1, leaf.shape[-1]) for leaf in jax.tree.leaves(model.bank)]
    picks, num_rows = gradients.num_picks(columns[0]), sum(map(len, banked))
    rows = rows_of(kept, columns)
    targets = jnp.asarray(targets_of(search.share, num_rows), jnp.int32)

    def read_more(state: _State) -> _State:
        least, total = least_importance(rows, targets[state.stage]), state.total
        for leaf, values, gradient in zip(banked, rows.importance, columns, strict=True):
            total += products.project_chosen(leaf, (values >= least) & (values < state.least), gradient)
        measured = scores_of_sums(total, model.num_tasks)
        among = listed(rows, measured, least, search.shortlist)
        exact = sum(
            (products.project_to(leaf, among.tasks, column) for leaf, column in zip(banked, columns, strict=True)),
            jnp.zeros((picks, search.shortlist), jnp.float32),
        )
        scores, is_clear = settled(among, measured, exact, search.margin)
        return _State(state.stage + 1, least, total, scores, is_clear, among.share)

    start = _State(
        jnp.int32(0),
        jnp.float32(jnp.inf),
        jnp.zeros((picks, 8, banked[0].shape[1]), jnp.float32),
        jnp.zeros((picks, model.num_tasks), jnp.float32),
        jnp.zeros(picks, bool),
        jnp.zeros(picks, jnp.float32),
    )
    state = jax.lax.while_loop(
        lambda state: (state.stage < len(targets)) & ~is_settled(state.is_clear), read_more, start
    )
    scores = _exact_where_unclear(model, columns, state)
    return Shortlisted(scores, state.share + (~state.is_clear).astype(jnp.float32))


# Arrays of scores that a search holds at a time.
_COPIES = 6

_SMALLEST = float(np.finfo(np.float32).tiny)

# Unclear picks are searched in the whole bank one by one if they are at most 1 in this number.
_FEW = 16


def _exact_where_unclear(model: Model, columns: list[Columns], state: _State) -> Float[Array, "picks tasks"]:
    """Return exact scores of the unclear picks, and the scores of the others."""
    structure = jax.tree.structure(model.bank)

    def exact(columns: list[Columns]) -> Array:
        shapes = [leaf.shape[:-1] for leaf in jax.tree.leaves(model.bank)]
        whole = [
            leaf if isinstance(leaf, Outer) else leaf.reshape(len(leaf), *shape)
            for leaf, shape in zip(columns, shapes, strict=True)
        ]
        return project(model, structure.unflatten(whole))

    def exact_if_unclear(pick: Array) -> Array:
        return jax.lax.cond(
            state.is_clear[pick],
            lambda: state.scores[pick],
            lambda: exact([gradients.of_pick(leaf, pick) for leaf in columns])[0],
        )

    picks = jnp.arange(len(state.scores))
    if len(picks) == 1:
        return exact_if_unclear(picks[0])[None]
    return jax.lax.cond(
        is_settled(state.is_clear), lambda: jax.lax.map(exact_if_unclear, picks), lambda: exact(columns)
    )


def targets_of(share: float, num_rows: int) -> list[int]:
    """Return the numbers of rows to have read after each stage; beyond half of them, reading all is simpler."""
    targets = []
    while share <= 0.5 or not targets:
        targets.append(min(num_rows, math.ceil(share * num_rows)))
        share *= 2
    return targets


def _sums(leaves: list[Columns], factors: list[Float[Array, " _"]]) -> Float[Array, " picks"]:
    """Return the sum over all weights of the products with a factor for each weight."""
    products = [gradients.times(leaf, factor) for leaf, factor in zip(leaves, factors, strict=True)]
    return sum(products[1:], products[0])


def _best(scores: Float[Array, "picks tasks"], number: int) -> Int[Array, " {number}"]:
    """Return the tasks that are best for any pick, relative to the spread of its scores; ties go to low numbers."""
    distance = scores - scores.min(1, keepdims=True)
    spread = scores.std(1, keepdims=True)
    return smallest((distance / jnp.where(spread > 0, spread, 1)).min(0), number)
