"""Tasks of one's own: any images of the right shape, with labels of any type."""

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
    """Arrays that Python code hands to `Run.learn`."""

    name: ClassVar[str] = "own"
    needs_folder: ClassVar[bool] = False

    def load(self, folder: Path) -> Dataset:
        """There is nothing to load.

        Raises:
            UserError: always.
        """
        raise UserError("--dataset own is for Python code, which hands arrays in; give the name of a data set")


@dataclass(frozen=True)
class UserTasks(TaskFamily):
    """Tasks that Python code hands to `Run.learn`, each a data set of its own."""

    name: ClassVar[str] = "own"

    source: Source = field(default_factory=UserArrays)

    def check(self, dataset: Dataset, without_gaps: bool = False) -> None:
        """Nothing: data were checked when they were handed in."""

    def bind(self, dataset: Dataset) -> Benchmark:
        """The data set as a task."""
        return OwnTasks.of(dataset)


def learn_arguments(data: Any, labels: Any, steps: Any, test: Any) -> tuple[Any, int | None, Any]:
    """What `Run.learn` was called with: images and labels together, `steps` and `test`.

    Version 0.1 took the pair, then `steps` and `test`, by position.
    """
    if labels is not None and np.ndim(labels) == 0 and not hasattr(labels, "__len__"):
        if steps is not None and (test is not None or not hasattr(steps, "__len__")):
            raise UserError("steps is given twice; call learn(images, labels, steps=..., test=...)")
        labels, steps, test = None, labels, test if steps is None else steps
    number = None if steps is None else integer("steps", steps)
    return (data if labels is None else (data, labels)), number, test


def user_dataset(inputs: Inputs, data: Any, test: Any = None) -> tuple[Dataset, list[Any]]:
    """A data set of one's own, and what its classes are called: the different labels, in order.

    Args:
        inputs: what images are to the network.
        data: images to learn, as `Inputs.images` takes them, and a label for each: numbers or text; as a pair, or a
            data set of PyTorch.
        test: images and labels to measure the accuracy on; by default there are none.

    Raises:
        UserError: if they do not fit.
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
    """Further samples of a data set of one's own, given what its classes are called.

    Raises:
        UserError: if they do not fit.
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
        raise UserError("the labels have values that are no finite numbers; give a number or a text for each image")
    return images, labels


def _split(images: np.ndarray, labels: np.ndarray, names: np.ndarray) -> Samples:
    if strange := sorted(set(labels.tolist()) - set(names.tolist()), key=str):
        others = f" (nor {', '.join(map(repr, strange[1:10]))})" if len(strange) > 1 else ""
        raise UserError(f"a test image has the label {strange[0]!r}, which none had that was learned{others}")
    return Samples(images, np.searchsorted(names, labels).astype(np.int32))
