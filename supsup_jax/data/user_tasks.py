"""User-supplied tasks: images of the network's shape, with labels of any type."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from supsup_jax.arguments import integer
from supsup_jax.data.arrays import Dataset, Samples
from supsup_jax.data.families import TaskFamily
from supsup_jax.data.inputs import Inputs
from supsup_jax.data.pairs import column, labels_array, opened
from supsup_jax.data.sources import Source
from supsup_jax.data.tasks import Benchmark, OwnTasks
from supsup_jax.errors import UserError


@dataclass(frozen=True)
class UserArrays(Source):
    """Arrays that Python code passes to `Run.learn`."""

    name: ClassVar[str] = "own"
    needs_folder: ClassVar[bool] = False

    def load(self, folder: Path) -> Dataset:
        """Refuse to load, because there is no file.

        Raises:
            UserError: always.
        """
        raise UserError("--dataset own is for arrays that Python code passes to Run.learn; give the name of a data set")


@dataclass(frozen=True)
class UserTasks(TaskFamily):
    """Tasks that Python code passes to `Run.learn`, each a separate data set."""

    name: ClassVar[str] = "own"

    source: Source = field(default_factory=UserArrays)

    def check(self, dataset: Dataset, without_gaps: bool = False) -> None:
        """Check nothing: `user_dataset` has checked the data already."""

    def bind(self, dataset: Dataset) -> Benchmark:
        """Return a benchmark whose task is the data set."""
        return OwnTasks.of(dataset)


def learn_arguments(data: Any, labels: Any, steps: Any, test: Any) -> tuple[Any, int | None, Any]:
    """Sort the arguments of `Run.learn` into data, `steps` and `test`.

    Version 0.1 took the pair of images and labels, then `steps` and `test`, by position.
    """
    if _is_scalar(labels):
        if steps is not None and (test is not None or _is_scalar(steps)):
            raise UserError("steps is given twice; call learn(images, labels, steps=..., test=...)")
        labels, steps, test = None, labels, test if steps is None else steps
    number = None if steps is None else integer("steps", steps)
    return (data if labels is None else (data, labels)), number, test


def _is_scalar(value: Any) -> bool:
    """Return whether a value is a single number of any library, and not labels or a pair."""
    if value is None or hasattr(value, "shape"):
        return getattr(value, "shape", None) == ()
    return not hasattr(value, "__iter__") and not hasattr(value, "__len__")


def user_dataset(inputs: Inputs, data: Any, test: Any = None) -> tuple[Dataset, list[Any]]:
    """Return a user-supplied data set, and the names of its classes: the sorted distinct labels.

    Args:
        inputs: the network's inputs.
        data: images to learn, as `Inputs.images` takes them, and a number or text as the label of each: a pair, or a
            PyTorch data set.
        test: images and labels to measure the accuracy on; by default none.

    Raises:
        UserError: if images or labels cannot be used.
    """
    images, labels = _checked(inputs, data)
    names = np.unique(labels)
    if len(names) > inputs.num_classes:
        raise UserError(
            f"there are {len(names)} different labels; this network tells {inputs.num_classes} classes apart"
        )
    train = _split(images, labels, names)
    held_out = _split(images[:0], labels[:0], names) if test is None else _split(*_checked(inputs, test), names)
    return Dataset(train, held_out, inputs.mean, inputs.std), names.tolist()


def labelled(inputs: Inputs, data: Any, names: list[Any]) -> Samples:
    """Return further samples of a user-supplied data set, given the names of its classes.

    Raises:
        UserError: if images or labels cannot be used.
    """
    return _split(*_checked(inputs, data), np.array(names))


def _checked(inputs: Inputs, data: Any) -> tuple[np.ndarray, np.ndarray]:
    given_images, given_labels = opened("data", data)
    images, labels = inputs.images(given_images), labels_array("labels", given_labels)
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "biufU":
        raise UserError(
            f"the labels are {labels.dtype} of shape {labels.shape}; give a number or a text for each of "
            f"{len(images)} images{column(labels, len(images))}"
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise UserError("the labels contain NaN or infinity; give a finite number or a text for each image")
    return images, labels


def _split(images: np.ndarray, labels: np.ndarray, names: np.ndarray) -> Samples:
    if unknown := sorted(set(labels.tolist()) - set(names.tolist()), key=str):
        others = f" (nor {', '.join(map(repr, unknown[1:10]))})" if len(unknown) > 1 else ""
        raise UserError(f"a test image has the label {unknown[0]!r}, which no training image has{others}")
    return Samples(images, np.searchsorted(names, labels).astype(np.int32))
