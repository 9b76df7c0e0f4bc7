"""Binary search that multiplies only the masks that are left: after a round, the others are dropped from its bank.

Bits of a bank lie along the task axis, where they cannot be picked out quickly. The first round, in which all tasks
take part, reads the bank as it is. Then the masks that are left are stored with their bits along the weights, as
*words* of 32 weights, `(words, tasks)`. Dropping tasks is a gather then, and each round reads half as much as the
one before.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from supsup_jax.inference.selection import smallest

WORD = 32
"""The number of weights in a word."""

# After this number of rounds so few tasks are left that dropping more would not pay for the compilation.
_MOST_NARROWED = 6

# Sums of this number of bits fit in a byte.
_MOST_IN_BYTE = 128


def words_of(rows: UInt8[Array, "rows bytes"], tasks: Int[Array, " tasks"]) -> UInt32[Array, "words tasks"]:
    """Return the masks of some tasks with their bits along the weights; missing weights of the last word are 0.

    Args:
        rows: a leaf of a bank, one row for each weight.
        tasks: the tasks.
    """
    bits = (jnp.uint8(1) << jnp.arange(8, dtype=jnp.uint8))[:, None]
    places = (tasks % 8) * rows.shape[1] + tasks // 8

    def word(rows: Array) -> Array:
        found = jnp.zeros((8, rows.shape[1]), jnp.uint32)
        for number in range(len(rows)):
            found |= jnp.where(rows[number][None] & bits != 0, jnp.uint32(1 << number), jnp.uint32(0))
        return jnp.take(found.reshape(-1), places)

    whole = len(rows) // WORD
    words = jax.lax.map(lambda index: word(jax.lax.dynamic_slice_in_dim(rows, index * WORD, WORD)), jnp.arange(whole))
    if len(rows) % WORD:
        words = jnp.concatenate([words, word(rows[whole * WORD :])[None]])
    return words


def count_words(words: UInt32[Array, "words tasks"], num_rows: int) -> Float[Array, " rows"]:
    """Return how many of the tasks keep each weight.

    XLA's CPU backend sums along the last axis one element at a time, so pieces of it are added in bytes before.

    Args:
        words: see `words_of`.
        num_rows: the number of weights.
    """
    pieces = min(_MOST_IN_BYTE, words.shape[1])
    shifts = jnp.arange(8, dtype=jnp.uint32)

    def count(word: Array) -> Array:
        parts = jnp.pad(word, (0, -len(word) % pieces)).reshape(pieces, -1)
        in_bytes = ((parts[:, None] >> shifts[None, :, None]) & jnp.uint32(0x01010101)).sum(0, dtype=jnp.uint32)
        each = (in_bytes[None] >> (8 * jnp.arange(4, dtype=jnp.uint32))[:, None, None]) & 0xFF
        return each.sum(-1, dtype=jnp.uint32).reshape(-1)  # bit 8 i + j at place 8 i + j

    return jax.lax.map(count, words).reshape(-1)[:num_rows].astype(jnp.float32)


def project_words(words: UInt32[Array, "words tasks"], gradient: Float[Array, " rows"]) -> Float[Array, " tasks"]:
    """Return the inner products of a gradient with the masks.

    Args:
        words: see `words_of`.
        gradient: the gradient with respect to the weights.
    """
    values = jnp.pad(gradient, (0, WORD * len(words) - len(gradient))).reshape(-1, WORD)

    def add(index: Array, total: Array) -> Array:
        word, value = words[index], values[index]
        for number in range(WORD):
            total += jnp.where(word & jnp.uint32(1 << number) != 0, value[number], 0)
        return total

    return jax.lax.fori_loop(0, len(words), add, jnp.zeros(words.shape[1], jnp.float32))


def take_words(words: Sequence[UInt32[Array, "words tasks"]], tasks: Int[Array, " left"]) -> list[Array]:
    """Return the words of some of the tasks, which are given by their places among the tasks of the words."""
    return [jax.lax.map(lambda word: jnp.take(word, tasks), leaf) for leaf in words]


def narrowed_rounds(
    rows: Sequence[UInt8[Array, "rows bytes"]],
    first: Float[Array, " tasks"],
    sizes: Sequence[int],
    gradients: Callable[[list[Float[Array, " rows"]]], list[Float[Array, " rows"]]],
) -> Bool[Array, "rounds tasks"]:
    """Return which tasks are left after each round, for one pick.

    Args:
        rows: the leaves of the bank.
        first: the derivatives with respect to every task's α in the first round.
        sizes: the number of tasks that are left after each round.
        gradients: returns the gradients for the shares of the tasks that keep each weight, by leaf.
    """
    tasks = smallest(first, sizes[0])
    words = [words_of(leaf, tasks) for leaf in rows]
    lengths = [len(leaf) for leaf in rows]
    nobody = jnp.zeros(len(first), bool)
    left = [nobody.at[tasks].set(True)]

    def derivatives(words: Sequence[Array], num_tasks: Array | int) -> Array:
        counts = [count_words(leaf, length) for leaf, length in zip(words, lengths, strict=True)]
        slopes = gradients([count / num_tasks for count in counts])
        return sum(
            (project_words(leaf, slope) for leaf, slope in zip(words, slopes, strict=True)),
            jnp.zeros(words[0].shape[1], jnp.float32),
        )

    for size in sizes[1:_MOST_NARROWED]:
        places = smallest(derivatives(words, len(tasks)), size)
        tasks, words = tasks[places], take_words(words, places)
        left.append(nobody.at[tasks].set(True))

    def keep_best(is_left: Array, size: Array) -> tuple[Array, Array]:
        masked = [jnp.where(is_left[None], leaf, jnp.uint32(0)) for leaf in words]
        order = jnp.where(is_left, derivatives(masked, is_left.sum()), jnp.inf).argsort(stable=True)
        is_left = order.argsort() < size
        return is_left, nobody.at[tasks].set(is_left)

    remaining = jnp.asarray(sizes[_MOST_NARROWED:], jnp.int32)
    _, last = jax.lax.scan(keep_best, jnp.ones(len(tasks), bool), remaining)
    return jnp.concatenate([jnp.stack(left), last])
