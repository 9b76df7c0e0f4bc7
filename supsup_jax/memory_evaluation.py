"""Accuracy of every task whose mask is recovered from a Hopfield memory, and how it was recovered."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from supsup_jax.data import Benchmark, Samples, Tasks
from supsup_jax.evaluation import Evaluation, Protocol, order_key
from supsup_jax.inference.recovery import Recovery
from supsup_jax.methods import Adapter
from supsup_jax.model import Model
from supsup_jax.system import devices
from supsup_jax.training import shuffle


class _Recovered(NamedTuple):
    """What is measured of one task whose mask is recovered; under a task axis, of all.

    Attributes:
        given: accuracy with the task's own mask.
        recovered: accuracy with the mask that is recovered.
        mask: the mask that is recovered.
        steps: how many steps of the path count.
        path: how it came about.
    """

    given: Any
    recovered: Any
    mask: Any
    steps: Any
    path: Any


class RecoveryPath(NamedTuple):
    """How a task's mask was recovered, at the start of each step and at the end.

    Attributes:
        hamming: in how many units the state differs from the task's own mask.
        energy: the memory's energy; not known at the end.
        entropy: mean entropy of the step's batch, in nats; not known at the end.
    """

    hamming: list[int]
    energy: list[float]
    entropy: list[float]


def evaluate_recovery(
    model: Model, benchmark: Benchmark, protocol: Protocol, seed: int, test: Samples, tasks: Tasks, *, truth: Adapter
) -> tuple[Evaluation, list[RecoveryPath]]:
    """Recovers every task's mask from its own test images, and tests it on the same batches, as the original does.

    What is picked is the task whose mask is nearest to the one recovered. The last batch is filled up with the task's
    first images.

    Args:
        model: its bank is the memory that holds the masks of all tasks; its network's batch norms use the statistics of
            each batch.
        benchmark: shows samples as the task shows them.
        protocol: how masks are recovered.
        seed: of the fixed order in which each task's test images come.
        test: the test samples of the data set.
        tasks: describes the tasks, stacked along a leading axis.
        truth: the masks themselves, stacked along a leading task axis, to be compared with.
    """
    num_tasks = len(jax.tree.leaves(truth)[0])
    tasks = jax.tree.map(lambda leaf: leaf[:num_tasks], tasks)
    orders = jax.vmap(lambda task: order_key(seed, task))(np.arange(num_tasks))
    run = _recover_tasks(benchmark, protocol)
    shared = devices.replicate((model, test))
    measured = jax.device_get(run(shared, (truth, tasks, orders)))

    patterns = _joined(truth)[:, None]
    distances = (_joined(measured.mask)[:, None] != patterns[:, 0]).sum(-1)
    hamming = np.concatenate(
        [(_joined(measured.path.states) != patterns).sum(-1), np.diagonal(distances)[:, None]], axis=1
    )
    picks = distances.argmin(1)
    confusion = np.zeros((num_tasks, num_tasks), np.int64)
    np.add.at(confusion, (np.arange(num_tasks), picks), 1)
    paths = [
        RecoveryPath(
            [*map(int, (*way[:steps], way[-1]))], [*map(float, energy[:steps])], [*map(float, entropy[:steps])]
        )
        for way, energy, entropy, steps in zip(
            hamming, measured.path.energy, measured.path.entropy, measured.steps, strict=True
        )
    ]
    hit = (picks == np.arange(num_tasks)).astype(float)
    return Evaluation(measured.given, measured.recovered, picked=hit, confusion=confusion), paths


def masks_as_hex(masks: Adapter) -> list[str]:
    """The bits of masks of vectors, stacked along a leading task axis, leaf after leaf; a text for each task."""
    bits = np.concatenate([np.asarray(leaf) != 0 for leaf in jax.tree.leaves(masks)], axis=1)
    return [row.tobytes().hex() for row in np.packbits(bits, axis=1)]


def masks_from_hex(masks: list[str], like: Adapter) -> Adapter:
    """Masks of vectors, stacked along a leading task axis, from their bits.

    Args:
        masks: as `masks_as_hex` gives them.
        like: one mask.
    """
    bits = np.unpackbits(np.array([list(bytes.fromhex(mask)) for mask in masks], np.uint8), axis=1)
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([len(leaf) for leaf in leaves])
    parts = [bits[:, end - len(leaf) : end] for leaf, end in zip(leaves, ends, strict=True)]
    return structure.unflatten([part.astype(np.float32) for part in parts])


def _joined(masks: Any) -> Bool[np.ndarray, "..."]:
    """The units of all layers along one last axis."""
    return np.concatenate([np.asarray(leaf) != 0 for leaf in jax.tree.leaves(masks)], axis=-1)


@cache
def _recover_tasks(benchmark: Benchmark, protocol: Protocol) -> Callable[..., _Recovered]:
    """The jitted function that recovers masks; the same one for the same settings."""
    places, batch = benchmark.test_size, protocol.batch_size
    starts = np.arange(0, places, batch)[:, None]
    recover = protocol.infer
    if not isinstance(recover, Recovery):
        raise ValueError("the protocol does not say how masks are recovered")

    def one_task(shared: Any, one: Any) -> _Recovered:
        model, test = shared
        own, task, key = one
        size = benchmark.size(task, train=False)
        order = shuffle(key, places, size)
        rows = order[(starts + np.arange(batch)) % size]
        images, labels = jax.vmap(lambda rows: benchmark.samples(test, task, rows, train=False))(rows)
        counts = (starts + np.arange(batch)) < size

        def accuracy_with(mask: Adapter) -> Array:
            effective = model.method.effective_weights(model.weights, mask)
            logits = jax.lax.map(lambda images: model.net.apply(effective, {}, images, train=False)[0], images)
            return ((logits.argmax(-1) == labels) & counts).sum() / size

        steps = -(-size // batch)
        mask, path = recover(model.net, model.weights, model.bank, images, steps)
        return _Recovered(accuracy_with(own), accuracy_with(mask), mask, jnp.asarray(steps), path)

    return devices.over_tasks(one_task)
