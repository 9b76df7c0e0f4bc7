"""Predicted classes and tasks of images, computed in batches of few different sizes."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array, Bool, Float, Int

from supsup_jax.data import Inputs
from supsup_jax.inference import Search
from supsup_jax.inference.recovery import Recovery
from supsup_jax.model import Model
from supsup_jax.system import atomic
from supsup_jax.system.progress import Progress

_BATCH = 256
"""Number of images that go through the network together."""

PLATFORMS = ("cpu", "cuda")
"""Platforms that an exported program runs on."""


@dataclass(frozen=True)
class Prediction:
    """Predictions for images.

    Attributes:
        labels: `(images,)`, labels of the most likely classes: 0, 1, ... as numbered by the benchmark, or the labels
            passed to `Run.learn`; -1 for rejected images. Only outputs that represent classes of the task are
            considered. In evaluations, as in the paper, another output can be the largest one, which is wrong.
        tasks: `(images,)`, task used for each image; -1 for rejected images, and if a mask was recovered from all
            images together (HopSupSup).
        logits: `(images, outputs)`, outputs of the network, including superfluous ones; 0 for rejected images.
        probabilities: `(images, classes)`, softmax over the outputs that represent classes of the task; 0 for the
            others, and for rejected images.
    """

    labels: np.ndarray
    tasks: Int[np.ndarray, " images"]
    logits: Float[np.ndarray, "images outputs"]
    probabilities: Float[np.ndarray, "images classes"]


class InferredTasks(NamedTuple):
    """Inferred tasks of images.

    Attributes:
        tasks: `(images,)`.
        scores: `(images, tasks)`, small for the correct task: derivatives of the objective with respect to all α at
            1/n; for the exhaustive search, values of the objective.
        confidence: `(images,)`, softmax of the negative scores, at the inferred task (as in Section 3.4); after
            `Run.calibrate` of the negative scores divided by the fitted temperature.
    """

    tasks: Int[np.ndarray, " images"]
    scores: Float[np.ndarray, "images tasks"]
    confidence: Float[np.ndarray, " images"]


@partial(jax.jit, static_argnames=("inputs",))
def logits(
    model: Model, inputs: Inputs, task: Int[Array, ""], images: Array | np.ndarray
) -> Float[Array, "images outputs"]:
    """Return the outputs for images with values from 0 to 255 that all belong to one task."""
    shown = inputs.normalise(jnp.asarray(images))
    logits, _ = model.net.apply(model.effective_weights(task), model.task_stats(task), shown, train=False)
    return logits


@partial(jax.jit, static_argnames=("inputs", "search"))
def inferred(
    model: Model, inputs: Inputs, search: Search, images: Array | np.ndarray
) -> tuple[Int[Array, " images"], Float[Array, "images tasks"]]:
    """Return the inferred tasks of images with values from 0 to 255, and the scores of all tasks."""
    return picks_and_scores(model, search, inputs.normalise(jnp.asarray(images)))


def picks_and_scores(
    model: Model, search: Search, images: Array, images_per_pick: int = 1
) -> tuple[Int[Array, " picks"], Float[Array, "picks tasks"]]:
    """Return the inferred tasks of normalised images, and the scores of all tasks; for the arguments, see `Search`."""
    scores = search.scores(model, images, images_per_pick)
    if search.picks_smallest:
        return scores.argmin(-1).astype(jnp.int32), scores
    return search(model, images, images_per_pick), scores


def logits_by_recovery(
    model: Model, scenario: Any, inputs: Inputs, images: np.ndarray
) -> Float[np.ndarray, "images outputs"]:
    """Return the outputs for images of one task, with a mask recovered from them, in batches as in evaluations."""
    recover = scenario.search
    assert isinstance(recover, Recovery)
    batch = min(scenario.test_batch_size, len(images))
    rows = np.arange(-(-len(images) // batch) * batch).reshape(-1, batch) % len(images)
    batches = inputs.normalise(images[rows.reshape(-1)]).reshape(*rows.shape, *inputs.image_shape)
    mask, _ = recover(model.net, model.weights, model.bank, batches)
    effective = model.method.effective_weights(model.weights, mask)
    logits = jax.lax.map(lambda images: model.net.apply(effective, {}, images, train=False)[0], batches)
    return np.asarray(logits).reshape(rows.size, -1)[: len(images)]


def classes_of(names: Sequence[list[Any] | None], num_classes: int) -> Int[np.ndarray, " tasks"]:
    """Return the number of classes of each task.

    Args:
        names: class labels of each user-supplied task; `None` for the other tasks.
        num_classes: number of classes of the other tasks.
    """
    return np.array([num_classes if labels is None else len(labels) for labels in names], np.int32)


def predicted(
    logits: Float[np.ndarray, "images outputs"],
    tasks: Int[np.ndarray, " images"],
    names: Sequence[list[Any] | None],
    num_classes: int,
) -> Prediction:
    """Return the predictions for given outputs.

    Args:
        logits: the outputs.
        tasks: task of each image; -1 if it is not known.
        names: class labels of each user-supplied task; `None` for the other tasks.
        num_classes: number of classes of the other tasks.
    """
    # If the task is not known, its class labels are known only if all tasks have the same ones.
    common = names[0] if names and all(labels == names[0] for labels in names) else None
    named = [*names, common]  # the last entry belongs to task -1
    counts = classes_of(named, num_classes)[tasks]
    of_classes = np.where(np.arange(num_classes) < counts[:, None], logits[:, :num_classes], -np.inf)
    probabilities = np.asarray(jax.nn.softmax(of_classes, axis=-1))
    classes = of_classes.argmax(-1)
    if all(labels is None for labels in named):
        return Prediction(classes, tasks, logits, probabilities)
    predicted_labels = [
        number if (labels := named[task]) is None else labels[number]
        for number, task in zip(classes, tasks, strict=True)
    ]
    same_type = len({type(label) for labels in named for label in labels or [0]}) == 1
    return Prediction(np.array(predicted_labels, None if same_type else object), tasks, logits, probabilities)


def without(rejected: Bool[np.ndarray, " images"], prediction: Prediction) -> Prediction:
    """Return the predictions with label -1 and probabilities 0 for rejected images."""
    labels = prediction.labels
    if rejected.any() and labels.dtype.kind not in "iO":  # text cannot hold -1
        labels = labels.astype(object)
    labels, probabilities = labels.copy(), np.where(rejected[:, None], 0, prediction.probabilities)
    labels[rejected] = -1
    return dataclasses.replace(prediction, labels=labels, probabilities=probabilities)


def in_batches(function: Callable[[np.ndarray], Any], images: np.ndarray, progress: Progress) -> Any:
    """Apply a function to images in batches of few sizes, to limit compilation; returns arrays on the host.

    Args:
        function: maps images to arrays with a leading image axis.
        images: all images.
        progress: counts the finished images.
    """
    results = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        count = len(batch)
        size = 2 ** math.ceil(math.log2(count))
        padded = np.concatenate([batch, np.repeat(batch[-1:], size - count, axis=0)])
        results.append(jax.tree.map(lambda leaf: leaf[:count], jax.device_get(function(padded))))  # noqa: B023
        progress.add(count)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)


def export_program(function: Callable[[Array], Any], image_shape: tuple[int, ...], path: Path) -> None:
    """Write a function of one image, mapped over any number of images, as StableHLO (`jax.export`).

    Args:
        function: maps a uint8 image to arrays.
        image_shape: `(height, width, channels)`.
        path: file to write; replaced atomically.
    """
    number = jax_export.symbolic_shape(f"images, {', '.join(map(str, image_shape))}")
    program = jax.jit(lambda images: jax.lax.map(function, images))
    exported = jax_export.export(program, platforms=PLATFORMS)(jax.ShapeDtypeStruct(number, jnp.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, exported.serialize())
