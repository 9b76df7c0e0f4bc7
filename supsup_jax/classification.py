"""Classification of a task's images by the network, with the task given."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from supsup_jax.data import Benchmark, Samples, Tasks
from supsup_jax.networks import Network, Stats, Weights

IMAGES_AT_ONCE = 1000
"""Number of a task's test images that pass through the network together."""


def is_right(
    net: Network,
    effective: Weights,
    stats: Stats,
    images: Float[Array, "batch height width channels"],
    labels: Int[Array, " batch"],
) -> Bool[Array, " batch"]:
    """Return which normalised images the network classifies correctly; every accuracy is computed from this."""
    logits, _ = net.apply(effective, stats, images, train=False)
    return logits.argmax(-1) == labels


def correct(
    net: Network,
    benchmark: Benchmark,
    split: Samples,
    effective: Weights,
    stats: Stats,
    task: Tasks,
    *,
    images_at_once: int | None = None,
) -> Bool[Array, " samples"]:
    """Return which samples of a task the network classifies correctly, with the task given; padding counts as wrong.

    Args:
        net: the network.
        benchmark: transforms samples as the task requires.
        split: the test samples of the data set.
        effective: the task's effective weights.
        stats: the task's batch-norm statistics.
        task: the task's description.
        images_at_once: number of images that pass through the network together; about 1,000 by default.
    """

    def one_batch(rows: Int[Array, " batch"]) -> Bool[Array, " batch"]:
        return is_right(net, effective, stats, *benchmark.samples(split, task, rows, train=False))

    places = benchmark.test_size
    batches = -(-places // (images_at_once or IMAGES_AT_ONCE))
    batch = -(-places // batches)
    rows = jnp.minimum(jnp.arange(batches * batch), places - 1).reshape(batches, batch)
    right = jax.lax.map(one_batch, rows).reshape(-1)[:places]
    return right & (jnp.arange(places) < benchmark.size(task, train=False))


def accuracy(
    net: Network,
    benchmark: Benchmark,
    split: Samples,
    effective: Weights,
    stats: Stats,
    task: Tasks,
    *,
    images_at_once: int | None = None,
) -> Float[Array, ""]:
    """Return the fraction of a task's samples that are classified correctly. For the arguments see `correct`."""
    right = correct(net, benchmark, split, effective, stats, task, images_at_once=images_at_once)
    return right.sum() / benchmark.size(task, train=False)
