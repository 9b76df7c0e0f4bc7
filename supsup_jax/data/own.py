"""Tasks of one's own: any images of the right shape, with labels of any type."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from supsup_jax.data.arrays import Dataset, Samples
from supsup_jax.data.families import TaskFamily
from supsup_jax.data.inputs import Inputs
from supsup_jax.data.sources import Source
from supsup_jax.data.tasks import Benchmark, OwnTasks
from supsup_jax.errors import UserError


@dataclass(frozen=True)
class Handed(Source):
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

    source: Source = field(default_factory=Handed)

    def bind(self, dataset: Dataset) -> Benchmark:
        """The data set as a task."""
        return OwnTasks.of(dataset)


def own_dataset(
    inputs: Inputs, data: tuple[Any, Any], test: tuple[Any, Any] | None = None
) -> tuple[Dataset, list[Any]]:
    """A data set of one's own, and what its classes are called: the different labels, in order.

    Args:
        inputs: what images are to the network.
        data: images to learn, as `Inputs.images` takes them, and a label for each: numbers or text.
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


def labelled(inputs: Inputs, data: tuple[Any, Any], names: list[Any]) -> Samples:
    """Further samples of a data set of one's own, given what its classes are called.

    Raises:
        UserError: if they do not fit.
    """
    return _split(*_checked(inputs, data), np.array(names))


def _checked(inputs: Inputs, data: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    images = inputs.images(data[0])
    plain = data[1] if isinstance(data[1], np.ndarray) and data[1].dtype != object else list(data[1])
    if isinstance(plain, list) and len({isinstance(label, str) for label in plain}) > 1:
        raise UserError("the labels are numbers and texts; give one or the other")
    try:
        labels = np.asarray(plain)
    except ValueError:
        raise UserError(f"the labels are of several shapes; give one for each of {len(images)} images") from None
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "biufU":
        raise UserError(
            f"the labels are {labels.dtype} of shape {labels.shape}; give a number or a text for each of "
            f"{len(images)} images"
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise UserError("the labels have values that are no finite numbers; give a number or a text for each image")
    return images, labels


def _split(images: np.ndarray, labels: np.ndarray, names: np.ndarray) -> Samples:
    if strange := sorted(set(labels.tolist()) - set(names.tolist())):
        raise UserError(f"a test image has the label {strange[0]!r}, which none had that was learned")
    return Samples(images, np.searchsorted(names, labels).astype(np.int32))
