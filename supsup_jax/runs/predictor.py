"""Predictions of learned tasks: which task is this, which class, what is the mask."""

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array, Int

from supsup_jax import arguments, registry
from supsup_jax.data import Inputs
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.inference import Exhaustive, Objective, OneShot, Search, entropy, maximum, superfluous
from supsup_jax.methods import Adapter, Bank, Method
from supsup_jax.model import Model
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.registry import name_of
from supsup_jax.runs import prediction, records
from supsup_jax.runs.prediction import (
    InferredTasks,
    Prediction,
    classes_of,
    in_batches,
    logits_by_recovery,
    predicted,
)
from supsup_jax.runs.records import Record
from supsup_jax.system import atomic, numerics
from supsup_jax.system.progress import Progress

PLATFORMS = ("cpu", "cuda")
"""What an exported program runs on."""


class Predictor(ABC):
    """Learned tasks, to be used on images; the base of `Run`, which says what the attributes are."""

    experiment: Experiment
    inputs: Inputs
    net: Network
    method: Method
    record: Record

    @property
    @abstractmethod
    def model(self) -> Model:
        """What was learned, on the device.

        Raises:
            UserError: if nothing has been learned yet.
        """

    @property
    def bank(self) -> Bank:
        """The adapters of all tasks, packed; for SupSup a bank of masks."""
        return self.model.bank

    @property
    def stats(self) -> Stats:
        """The batch-norm statistics of all tasks, stacked along a leading axis; `{}` if there are none."""
        return self.model.stats

    @numerics.with_fixed_flags
    def mask(self, task: SupportsIndex) -> Adapter:
        """The mask of a task: a pytree of 0 and 1 with the structure of the weights.

        Raises:
            UserError: if there is no such task, or its method has no masks.
        """
        if not self.method.has_masks:
            raise UserError(f"{name_of('method', self.experiment.method)} keeps no masks; see weights_for")
        return self.model.adapter(self._existing(task))

    @numerics.with_fixed_flags
    def weights_for(self, task: SupportsIndex) -> Weights:
        """The effective weights of a task: what the network runs with.

        Raises:
            UserError: if there is no such task, or its method cannot give them without images.
        """
        if self.method.recovers:
            raise UserError("HopSupSup keeps no task apart: predict recovers a mask from images of one task")
        return self.model.effective_weights(self._existing(task))

    @numerics.with_fixed_flags
    def stats_for(self, task: SupportsIndex) -> Stats:
        """The batch-norm statistics of a task.

        Raises:
            UserError: if there is no such task.
        """
        return self.model.task_stats(self._existing(task))

    @numerics.with_fixed_flags
    def predict(
        self,
        images: Any,
        task: Any = None,
        search: Search | str | None = None,
        objective: Objective | str | None = None,
    ) -> Prediction:
        """Classifies images.

        Args:
            images: see `Run`.
            task: the task of all images, or of each: integers; by default it is inferred for every single image.
                HopSupSup, which keeps no masks, recovers one from all images, which have to be of one task.
            search: see `infer_task`.
            objective: see `infer_task`.

        Raises:
            UserError: if the images, the tasks, the search or the objective do not fit.
        """
        images = self.inputs.images(images)
        if self.method.recovers:
            return self._recovered(images, task)
        if task is None:
            tasks = self._infer(images, self.inference(search, objective)).tasks
        else:
            tasks = self._tasks_of(task, len(images))
        logits = np.zeros((len(images), self.net.num_outputs), np.float32)
        progress = Progress("classifying", len(images), "images")
        for number in np.unique(tasks).tolist():
            rows = np.flatnonzero(tasks == number)
            logits[rows] = self._in_batches(
                lambda batch, task=number: self._logits(task, batch), images[rows], progress
            )
        return predicted(logits, tasks, self._names(), self.inputs.num_classes)

    @numerics.with_fixed_flags
    def infer_task(
        self,
        images: Any,
        return_scores: bool = False,
        search: Search | str | None = None,
        objective: Objective | str | None = None,
    ) -> Int[np.ndarray, " images"] | InferredTasks:
        """Which task each image belongs to.

        Args:
            images: see `Run`.
            return_scores: whether to give all scores and a confidence as well.
            search: "one_shot", "binary" or "exhaustive"; by default the experiment's, and where that is not for this
                method, or it always was given its tasks, "one_shot" for masks and else "exhaustive".
            objective: "entropy", "superfluous" or, for the exhaustive search, "maximum"; by default the experiment's.

        Raises:
            UserError: if the images, the search or the objective do not fit.
        """
        images = self.inputs.images(images)
        inferred = self._infer(images, self.inference(search, objective))
        return inferred if return_scores else inferred.tasks

    @numerics.with_fixed_flags
    def export(self, path: str | os.PathLike[str], task: SupportsIndex | None = None) -> None:
        """Writes `predict` as a program that JAX alone can run, on CPU and GPU (StableHLO, by `jax.export`).

        `jax.export.deserialize(bytearray(path.read_bytes())).call(images)` takes any number of images, uint8, and gives
        their classes, tasks and logits.

        Args:
            path: file to write.
            task: the task of all images; by default it is inferred for each.

        Raises:
            UserError: if there is no such task, or the method cannot be exported.
        """
        if self.net.uses_batch:
            raise UserError("this network answers by the other images of its batch too; that is not exported")
        model = self.model
        counts = jnp.asarray(classes_of(self._names(), self.inputs.num_classes))
        if task is not None:
            number = self._existing(task)
            effective, own = self.weights_for(number), self.stats_for(number)

            def logits_of(image: Array) -> tuple[Array, Array]:
                logits, _ = self.net.apply(effective, own, self.inputs.normalise(image[None]), train=False)
                return logits[0], jnp.int32(number)
        else:
            search = self.inference()

            def logits_of(image: Array) -> tuple[Array, Array]:
                (picked,) = search(model, self.inputs.normalise(image[None]))
                return self._logits(picked, image[None])[0], picked

        def predict(image: Array) -> tuple[Array, Array, Array]:
            logits, task = logits_of(image)
            of_task = jnp.where(jnp.arange(len(logits)) < counts[task], logits, -jnp.inf)
            return of_task.argmax().astype(jnp.int32), task, logits

        _export(predict, self.inputs.image_shape, arguments.path("path", path))

    def account(self) -> records.Account:
        """The bytes that have to be kept, by what they hold."""
        return records.account(self.model)

    def _existing(self, task: SupportsIndex) -> int:
        """The number of a task, if there is such a task."""
        num_tasks = self.model.num_tasks  # of which there has to be one
        number = arguments.integer("task", task)
        if not 0 <= number < num_tasks:
            raise UserError(f"there is no task {number}; there are tasks 0 to {num_tasks - 1}")
        return number

    def _tasks_of(self, task: Any, images: int) -> Int[np.ndarray, " images"]:
        """The task of each image."""
        tasks = arguments.array("task", task)
        if not np.issubdtype(tasks.dtype, np.integer) or tasks.shape not in ((), (images,)):
            raise UserError(
                f"task has shape {tasks.shape} and type {tasks.dtype}; give a number, or one for each image"
            )
        for number in np.unique(tasks).tolist():
            self._existing(number)
        return np.broadcast_to(tasks, images).astype(np.int32)

    def inference(self, search: Search | str | None = None, objective: Objective | str | None = None) -> Search:
        """How tasks are inferred; arguments are those of `infer_task`.

        Raises:
            UserError: if the search or the objective are not for this run's method.
        """
        return search_for(self.experiment, self.method, self.net, self.inputs.num_classes, (search, objective))

    def _infer(self, images: np.ndarray, search: Search) -> InferredTasks:
        model, progress = self.model, Progress("inferring tasks", len(images), "images")
        tasks, scores = self._in_batches(
            lambda batch: prediction.inferred(model, self.inputs, search, batch), images, progress
        )
        share = np.asarray(jax.nn.softmax(-scores, axis=-1))
        return InferredTasks(tasks, scores, np.take_along_axis(share, tasks[:, None], 1)[:, 0])

    def _logits(self, task: int | Array, images: np.ndarray | Array) -> Array:
        return prediction.logits(self.model, self.inputs, jnp.int32(task), images)

    def _in_batches(self, function: Callable[[np.ndarray], Any], images: np.ndarray, progress: Progress) -> Any:
        return jax.device_get(function(images)) if self.net.uses_batch else in_batches(function, images, progress)

    def _recovered(self, images: np.ndarray, task: Any) -> Prediction:
        """The prediction for images of one task, whose mask is recovered from a memory."""
        if task is not None:
            raise UserError("HopSupSup keeps no task apart, so none can be given: it recovers a mask from the images")
        logits = logits_by_recovery(self.model, self.experiment.scenario, self.inputs, images)
        return predicted(logits, np.full(len(images), -1, np.int32), self._names(), self.inputs.num_classes)

    def _names(self) -> list[list[Any] | None]:
        """What the classes of each task are called, where it is one's own."""
        if self.experiment.scenario.discovers:
            return [None] * self.model.num_tasks
        return [result.labels for result in self.record.tasks]


def search_for(
    experiment: Experiment,
    method: Method,
    net: Network,
    num_classes: int,
    asked: tuple[Search | str | None, Objective | str | None] = (None, None),
) -> Search:
    """How the tasks of single images are inferred.

    Args:
        experiment: has a search of its own, which is the default where it serves the method.
        method: how tasks were learned.
        net: the network.
        num_classes: classes of a task, at most.
        asked: the search and the objective, or their names, where they are not the experiment's.

    Raises:
        UserError: if the search or the objective are not for this method.
    """
    if not method.searches or net.uses_batch:
        called = name_of("method", experiment.method), name_of("network", experiment.network)
        raise UserError(
            f"{called[0]} with {called[1]} cannot tell the task of a single image; "
            "give task=..., or for HopSupSup to predict images of one task"
        )
    search, objective = asked
    own = getattr(experiment.scenario, "search", None)
    if not isinstance(own, Search) or not own.serves(method):
        own = OneShot() if OneShot().serves(method) else Exhaustive()
    chosen = own if search is None else _search_of(search, own, method)
    if objective is not None:
        chosen = _with_objective(chosen, objective)
    chosen = chosen.for_classes(num_classes)
    if isinstance(chosen.objective, superfluous) and net.num_outputs == num_classes:
        raise UserError("objective superfluous needs a network with more outputs than classes; give entropy")
    return chosen


def _search_of(search: Search | str, own: Search, method: Method) -> Search:
    """A search by its name, with the objective of the experiment's own."""
    kinds = {name: registry.find("search", name) for name in registry.names("search")}
    possible = [name for name, kind in kinds.items() if issubclass(kind, Search) and kind().serves(method)]
    if isinstance(search, str):
        if search not in possible:
            raise UserError(f"search {search} is not for this run; give {' or '.join(possible)}")
        if type(own) is kinds[search]:
            return own
        return kinds[search](own.objective if search == "exhaustive" or own.objective is not maximum else entropy)
    if not search.serves(method):
        raise UserError(f"search {type(search).__name__} is not for this run; give {' or '.join(possible)}")
    return search


def _with_objective(search: Search, objective: Objective | str) -> Search:
    """The search with another objective, which may be given by its name."""
    if isinstance(objective, str):
        possible = [name for name in registry.names("objective") if name != "maximum" or type(search) is Exhaustive]
        if objective not in possible:
            raise UserError(f"objective {objective} is not for this run; give {' or '.join(possible)}")
        found = registry.find("objective", objective)
        objective = found() if isinstance(found, type) else found
    return dataclasses.replace(search, objective=objective)


def _export(function: Callable[[Array], Any], image_shape: tuple[int, ...], path: Path) -> None:
    """Writes a function of one image, mapped over any number of them, as StableHLO (`jax.export`).

    Args:
        function: from a uint8 image to arrays.
        image_shape: `(height, width, channels)`.
        path: file to write; it is replaced whole.
    """
    number = jax_export.symbolic_shape(f"images, {', '.join(map(str, image_shape))}")
    program = jax.jit(lambda images: jax.lax.map(function, images))
    exported = jax_export.export(program, platforms=PLATFORMS)(jax.ShapeDtypeStruct(number, jnp.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, exported.serialize())
