"""Accuracy of every learned task, the task given or inferred, in batches over all tasks.

With the task inferred there are two figures, and both assume unshared labels (scenario GNu), where a wrong task
cannot give a right answer. *Per batch* is the paper's protocol: one pick for every batch of 128 test images, and a
wrong pick counts the whole batch as wrong. *Per image* is harder and closer to use: a pick for every single image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from supsup_jax import inference, parallel
from supsup_jax.data import Benchmark, Split, Tasks
from supsup_jax.inference import Inference
from supsup_jax.methods import Method, Store
from supsup_jax.networks import Network, Stats, Weights

IMAGES_AT_ONCE = 1000
"""Test images of a task that go through the network together."""


def correct(
    net: Network, benchmark: Benchmark, split: Split, effective: Weights, stats: Stats, task: Tasks
) -> Bool[Array, " samples"]:
    """Which samples of a task the network classifies right, with the task given.

    Args:
        net: the network.
        benchmark: shows samples as the task shows them.
        split: the test samples of the data set.
        effective: the task's effective weights.
        stats: the task's batch-norm statistics.
        task: describes the task.
    """

    def one_batch(rows: Int[Array, " batch"]) -> Bool[Array, " batch"]:
        images, labels = benchmark.samples(split, task, rows)
        logits, _ = net.apply(effective, stats, images, train=False)
        return logits.argmax(-1) == labels

    size = benchmark.test_size
    batches = -(-size // IMAGES_AT_ONCE)
    batch = -(-size // batches)
    rows = jnp.minimum(jnp.arange(batches * batch), size - 1).reshape(batches, batch)
    return jax.lax.map(one_batch, rows).reshape(-1)[:size]


def accuracy(
    net: Network, benchmark: Benchmark, split: Split, effective: Weights, stats: Stats, task: Tasks
) -> Float[Array, ""]:
    """The fraction of a task's samples that the network classifies right. Arguments are those of `correct`."""
    return correct(net, benchmark, split, effective, stats, task).mean()


@dataclass(frozen=True)
class Protocol:
    """How the task of test images is inferred.

    Attributes:
        infer: the search with its objective.
        batch_size: images of one batch, all of one task; 128 in the paper.
        images_per_pick: from how many of them, the first, the task is inferred: 1, or 128 for the full batch.
        images_per_task: for how many test images of each task one is inferred for every single image.
    """

    infer: Inference
    batch_size: int = 128
    images_per_pick: int = 1
    images_per_task: int = 64


class Evaluation(NamedTuple):
    """What was measured over the tasks learned so far. Accuracies are fractions, one for each task.

    Attributes:
        given: accuracy with the task given (GG).
        inferred: accuracy by the paper's protocol, the task inferred once a batch (GNu).
        inferred_per_image: accuracy with the task inferred for every single image.
        picked: fraction of batches for which the right task was inferred.
        picked_per_image: fraction of images for which the right task was inferred.
        confusion: counts of batches, `(true task, inferred task)`.
    """

    given: Float[np.ndarray, " tasks"]
    inferred: Float[np.ndarray, " tasks"]
    inferred_per_image: Float[np.ndarray, " tasks"]
    picked: Float[np.ndarray, " tasks"]
    picked_per_image: Float[np.ndarray, " tasks"]
    confusion: Int[np.ndarray, "tasks tasks"]


def evaluate(
    net: Network,
    method: Method,
    benchmark: Benchmark,
    protocol: Protocol,
    seed: int,
    weights: Weights,
    stats: Stats,
    store: Store,
    num_tasks: int,
    test: Split,
    tasks: Tasks,
) -> Evaluation:
    """Evaluates the first `num_tasks` tasks, with as many to infer from; compiled once for each number of tasks.

    Args:
        net: the network.
        method: how what is kept of a task becomes effective weights.
        benchmark: shows samples as the task shows them.
        protocol: how the task is inferred.
        seed: of the fixed order in which each task's test images come.
        weights: the shared weights.
        stats: statistics of every task, stacked along a leading axis.
        store: what is kept of every task.
        num_tasks: how many tasks are learned.
        test: the test samples of the data set.
        tasks: describes the tasks, stacked along a leading axis.
    """
    stats, tasks = jax.tree.map(lambda leaf: leaf[:num_tasks], (stats, tasks))
    orders = jax.vmap(lambda task: order_key(seed, task))(np.arange(num_tasks))
    picks_per_task = -(-benchmark.test_size // protocol.batch_size) + protocol.images_per_task
    run = _over_tasks(net, method, benchmark, protocol, num_tasks, inference.memory(weights, picks_per_task))
    shared = parallel.replicate((weights, stats, store, test))
    is_right, picks, image_picks = jax.device_get(run(shared, (np.arange(num_tasks), stats, tasks, orders)))
    return _summary(is_right, picks, image_picks, protocol.batch_size)


def order_key(seed: int, task: int | Int[Array, ""]) -> Key[Array, ""]:
    """The key of the order in which a task's test images come: it depends on (seed, task) alone."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), task)


@cache
def _over_tasks(
    net: Network, method: Method, benchmark: Benchmark, protocol: Protocol, num_tasks: int, bytes_per_task: int
) -> Callable[..., Any]:
    """The jitted function that evaluates tasks; the same one for the same settings."""
    size = benchmark.test_size
    batch = protocol.batch_size
    starts = np.arange(0, size, batch)
    # The last batch may be shorter than a pick needs: its first images then come again.
    lengths = np.minimum(batch, size - starts)[:, None]
    pick_rows = (starts[:, None] + np.arange(protocol.images_per_pick) % lengths).reshape(-1)

    def one_task(shared: Any, one: Any) -> tuple[Array, Array, Array]:
        """Which test images are classified right, in the fixed order, and the tasks inferred for batches and images."""
        weights, all_stats, store, test = shared
        number, stats, task, key = one
        order = jax.random.permutation(key, size)
        effective = method.combine(weights, method.unpack(store, number))
        is_right = correct(net, benchmark, test, effective, stats, task)[order]

        # All learned tasks are superposed with equal weight, and so are their statistics.
        superposed = jax.tree.map(lambda leaf: leaf.mean(0), all_stats)

        def infer(rows: Array, images_per_pick: int) -> Array:
            images, _ = benchmark.samples(test, task, rows)
            return protocol.infer(net, weights, superposed, store, num_tasks, images, images_per_pick)

        image_rows = order[: protocol.images_per_task]
        if protocol.images_per_pick == 1:  # one call for both: it compiles and runs faster than two
            picks = infer(jnp.concatenate([order[pick_rows], image_rows]), 1)
            return is_right, picks[: len(starts)], picks[len(starts) :]
        return is_right, infer(order[pick_rows], protocol.images_per_pick), infer(image_rows, 1)

    return parallel.over_tasks(one_task, bytes_per_task)


def _summary(is_right: np.ndarray, picks: np.ndarray, image_picks: np.ndarray, batch_size: int) -> Evaluation:
    """Counts of right answers, as the two protocols count them."""
    num_tasks, size = is_right.shape
    truth = np.arange(num_tasks)[:, None]
    batch_hit, image_hit = picks == truth, image_picks == truth
    confusion = np.zeros((num_tasks, num_tasks), np.int64)
    np.add.at(confusion, (np.broadcast_to(truth, picks.shape), picks), 1)
    return Evaluation(
        given=is_right.mean(1),
        inferred=(is_right & batch_hit[:, np.arange(size) // batch_size]).mean(1),
        inferred_per_image=(is_right[:, : image_hit.shape[1]] & image_hit).mean(1),
        picked=batch_hit.mean(1),
        picked_per_image=image_hit.mean(1),
        confusion=confusion,
    )
