"""Accuracy of tasks whose masks are recovered from a memory (HopSupSup)."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from supsup_jax import evaluation
from supsup_jax.classification import is_right
from supsup_jax.data import Benchmark, HeldOut
from supsup_jax.evaluation import Evaluation, Protocol
from supsup_jax.inference.recovery import Recovery
from supsup_jax.methods import Adapter
from supsup_jax.model import Model
from supsup_jax.system import backend, devices
from supsup_jax.training import shuffle


class RecoveryPath(NamedTuple):
    """The recovery of a task's mask, at the start of each step and at the end.

    Attributes:
        hamming: number of units whose state differs from the task's own mask.
        energy: the memory's energy; not known at the end.
        entropy: mean entropy of the step's batch, in nats; not known at the end.
    """

    hamming: list[int]
    energy: list[float]
    entropy: list[float]


def evaluate_recovery(
    model: Model, test: HeldOut, protocol: Protocol, *, truth: Adapter, first: int = 0
) -> Iterator[tuple[Evaluation, list[RecoveryPath]]]:
    """Recover every task's mask from its own test images, and test it on the same batches, as the original does.

    The inferred task is the one whose mask is nearest to the recovered mask. The last batch is filled up with the
    task's first images.

    Args:
        model: a model whose bank is the memory, and whose network's batch norms use the statistics of each batch.
        test: see `evaluation.evaluate`.
        protocol: see `evaluation.evaluate`.
        truth: the tasks' own masks, stacked along a leading task axis.
        first: see `evaluation.evaluate_in_parts`.

    Yields:
        The evaluations of consecutive tasks, in order, and the recoveries of their masks.
    """
    num_tasks = len(jax.tree.leaves(truth)[0])
    tasks = jax.device_get(truth), np.arange(num_tasks), evaluation.on_host(test.tasks, num_tasks)
    run = _recover_tasks(test.benchmark, protocol)
    shared, patterns = devices.replicate((model, test.samples, evaluation.orders_key(test.seed))), _all_units(truth)
    capacity = devices.tasks_at_once(backend.num_bytes(model.bank))
    for part in devices.parts(first, num_tasks, capacity):
        measured = run(shared, jax.tree.map(lambda leaf, part=part: leaf[part], tasks), min(capacity, num_tasks))
        distances = (_all_units(measured.mask)[:, None] != patterns).sum(-1)
        numbers = np.arange(num_tasks)[part]
        last = np.take_along_axis(distances, numbers[:, None], 1)
        hamming = np.concatenate([(_all_units(measured.path.states) != patterns[part, None]).sum(-1), last], axis=1)
        picks = distances.argmin(1)
        path = hamming, measured.path.energy, measured.path.entropy, measured.steps
        paths = [
            RecoveryPath([*way[:steps].tolist(), int(way[-1])], energy[:steps].tolist(), entropy[:steps].tolist())
            for way, energy, entropy, steps in zip(*path, strict=True)
        ]
        confusion = (picks[:, None] == np.arange(num_tasks)).astype(np.int64)
        hit = (picks == numbers).astype(float)
        yield Evaluation(measured.given, measured.recovered, picked=hit, confusion=confusion), paths


class _Recovered(NamedTuple):
    """Measurements of one task whose mask is recovered; with a leading task axis, of all tasks.

    Attributes:
        given: accuracy with the task's own mask.
        recovered: accuracy with the recovered mask.
        mask: the recovered mask.
        steps: the number of steps of the path that count.
        path: the states of the recovery.
    """

    given: Any
    recovered: Any
    mask: Any
    steps: Any
    path: Any


@cache
def _recover_tasks(benchmark: Benchmark, protocol: Protocol) -> Callable[..., _Recovered]:
    """Return the jitted function that recovers masks, the same one for equal arguments."""
    places, batch = benchmark.test_size, protocol.batch_size
    starts = np.arange(0, places, batch)[:, None]
    recover = protocol.infer
    if not isinstance(recover, Recovery):
        raise ValueError(f"infer {recover}: must be a Recovery")

    def one_task(shared: Any, described: Any) -> _Recovered:
        model, test, orders = shared
        truth, number, task = described
        size = benchmark.size(task, train=False)
        order = shuffle(jax.random.fold_in(orders, number), places, size)
        rows = order[(starts + np.arange(batch)) % size]
        images, labels = jax.vmap(lambda rows: benchmark.samples(test, task, rows, train=False))(rows)
        counts = (starts + np.arange(batch)) < size

        def accuracy_with(mask: Adapter) -> Array:
            effective = model.method.effective_weights(model.weights, mask)
            right = jax.lax.map(lambda batch: is_right(model.net, effective, {}, *batch), (images, labels))
            return (right & counts).sum() / size

        steps = -(-size // batch)
        mask, path = recover(model.net, model.weights, model.bank, images, steps)
        return _Recovered(accuracy_with(truth), accuracy_with(mask), mask, jnp.asarray(steps), path)

    return devices.over_tasks(one_task, to_host=True)


def _all_units(masks: Any) -> Bool[np.ndarray, "..."]:
    """Return the units of all layers concatenated along the last axis."""
    return np.concatenate([np.asarray(leaf) != 0 for leaf in jax.tree.leaves(masks)], axis=-1)
