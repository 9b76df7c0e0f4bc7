"""Classes and tasks of images, in batches of few sizes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from supsup_jax.data import Inputs
from supsup_jax.inference import Search
from supsup_jax.inference.recovery import Recovery
from supsup_jax.model import Model
from supsup_jax.system.progress import Progress

_BATCH = 256
"""Images that go through the network together."""


@dataclass(frozen=True)
class Prediction:
    """What a run says of images.

    Attributes:
        labels: `(images,)`, what the likeliest class is called: 0, 1, ... as the benchmark of a script numbers them, or
            the labels that `Run.learn` was given. Other outputs of the network than those of the task's classes are
            left out; in evaluations, as in the paper's, an answer that is none of these is wrong.
        tasks: `(images,)`, with which task; -1 where a mask was recovered for all of them together (HopSupSup).
        logits: `(images, outputs)`, the network's outputs, the superfluous ones among them.
        probabilities: `(images, classes)`, the softmax over the outputs that stand for the task's classes; 0 beyond.
    """

    labels: np.ndarray
    tasks: Int[np.ndarray, " images"]
    logits: Float[np.ndarray, "images outputs"]
    probabilities: Float[np.ndarray, "images classes"]


class InferredTasks(NamedTuple):
    """Which tasks images belong to.

    Attributes:
        tasks: `(images,)`.
        scores: `(images, tasks)`, what is small for the right task: the derivatives of the objective with respect to
            all α at 1/n, or for the exhaustive search its values.
        confidence: `(images,)`, the softmax of the scores times -1 at the task that was picked (as in Section 3.4).
    """

    tasks: Int[np.ndarray, " images"]
    scores: Float[np.ndarray, "images tasks"]
    confidence: Float[np.ndarray, " images"]


@partial(jax.jit, static_argnames=("inputs",))
def logits(
    model: Model, inputs: Inputs, task: Int[Array, ""], images: Array | np.ndarray
) -> Float[Array, "images outputs"]:
    """The outputs for images of 0 to 255 that are all of one task."""
    shown = inputs.normalise(jnp.asarray(images))
    logits, _ = model.net.apply(model.effective_weights(task), model.task_stats(task), shown, train=False)
    return logits


@partial(jax.jit, static_argnames=("inputs", "search"))
def inferred(
    model: Model, inputs: Inputs, search: Search, images: Array | np.ndarray
) -> tuple[Int[Array, " images"], Float[Array, "images tasks"]]:
    """The task of each of some images of 0 to 255, and its scores."""
    shown = inputs.normalise(jnp.asarray(images))
    scores = search.scores(model, shown)
    return scores.argmin(-1).astype(jnp.int32) if search.picks_smallest else search(model, shown), scores


def logits_by_recovery(
    model: Model, scenario: Any, inputs: Inputs, images: np.ndarray
) -> Float[np.ndarray, "images outputs"]:
    """The outputs for images of one task, with a mask that is recovered from them, in batches as in the evaluation."""
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
    """How many classes each task has.

    Args:
        names: what the classes of each task are called, where it is one's own.
        num_classes: classes of all other tasks.
    """
    return np.array([num_classes if own is None else len(own) for own in names], np.int32)


def predicted(
    logits: Float[np.ndarray, "images outputs"],
    tasks: Int[np.ndarray, " images"],
    names: Sequence[list[Any] | None],
    num_classes: int,
) -> Prediction:
    """What outputs say of images.

    Args:
        logits: the outputs.
        tasks: with which task; -1 where it is one of all, nobody knows which.
        names: what the classes of each task are called, where it is one's own.
        num_classes: classes of all other tasks.
    """
    # Where the task is not known, its classes are only if all tasks call them alike.
    of_any = names[0] if names and all(own == names[0] for own in names) else None
    named = [*names, of_any]  # the last one is that of task -1
    counts = classes_of(named, num_classes)[tasks]
    of_classes = np.where(np.arange(num_classes) < counts[:, None], logits[:, :num_classes], -np.inf)
    probabilities = np.asarray(jax.nn.softmax(of_classes, axis=-1))
    classes = of_classes.argmax(-1)
    if all(own is None for own in named):
        return Prediction(classes, tasks, logits, probabilities)
    called = [
        number if (own := named[task]) is None else own[number] for number, task in zip(classes, tasks, strict=True)
    ]
    alike = len({type(label) for own in named for label in own or [0]}) == 1
    return Prediction(np.array(called, None if alike else object), tasks, logits, probabilities)


def in_batches(function: Callable[[np.ndarray], Any], images: np.ndarray, progress: Progress) -> Any:
    """A function of batches over any number of images, of few sizes, so that few are compiled; on the host.

    Args:
        function: from images to arrays with a leading image axis.
        images: all of them.
        progress: counts the images that are done.
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
