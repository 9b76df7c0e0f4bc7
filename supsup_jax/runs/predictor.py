"""Use of learned tasks on images: infer the task, classify, return a mask, export."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from supsup_jax import arguments
from supsup_jax.data import Inputs
from supsup_jax.errors import ArgumentError, UserError
from supsup_jax.experiment import Experiment
from supsup_jax.inference import Objective, Search
from supsup_jax.methods import Adapter, Bank, Method
from supsup_jax.model import Model
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.registry import name_of
from supsup_jax.runs import calibration, prediction, records
from supsup_jax.runs.calibration import Calibration
from supsup_jax.runs.prediction import (
    InferredTasks,
    Prediction,
    classes_of,
    export_program,
    in_batches,
    logits_by_recovery,
    predicted,
    without,
)
from supsup_jax.runs.records import Record
from supsup_jax.runs.search_choice import search_for
from supsup_jax.system import numerics
from supsup_jax.system.progress import Progress


class Predictor(ABC):
    """Learned tasks to use on images; the base class of `Run`, which documents the attributes."""

    experiment: Experiment
    inputs: Inputs
    net: Network
    method: Method
    record: Record
    folder: Path | None
    _calibrations: list[Calibration] | None = None  # `None` before they are read
    _devices: Sequence[Any] | None = None  # the devices among which the bank is divided, if it is
    _on_device: Model | None = None  # the model, once it is on the devices

    @property
    @abstractmethod
    def model(self) -> Model:
        """The learned model, on the device.

        Raises:
            UserError: if no task has been learned.
        """

    @abstractmethod
    def model_for(self, search: Search) -> Model:
        """Return the learned model with what a search needs of it, which is computed once.

        Raises:
            UserError: if no task has been learned.
        """

    @numerics.with_fixed_flags
    def shard_bank(self, devices: Sequence[Any] | None = None) -> None:
        """Divide the bank of masks among devices, which then infer tasks together; see `Model.sharded`.

        Args:
            devices: the devices; by default all of all processes.

        Raises:
            UserError: as in `Model.sharded`; the run does not change then.
        """
        before = self._devices, self._on_device
        self._devices, self._on_device = jax.devices() if devices is None else list(devices), None
        try:
            _ = self.model
        except UserError:
            self._devices, self._on_device = before
            raise

    @property
    @abstractmethod
    def has_given_weights(self) -> bool:
        """Whether the user gave the initial base weights; otherwise the seed determines them."""

    @property
    def _num_learned(self) -> int:
        """Number of learned tasks.

        Raises:
            UserError: if no task has been learned.
        """
        return self.model.num_tasks

    def _model_with(self, task: int | Array) -> tuple[Model, int | Array]:
        """Return a model that holds a task, and the number of the task in it."""
        return self.model, task

    @property
    def bank(self) -> Bank:
        """The adapters of all tasks, packed; for SupSup, a bank of masks."""
        return self.model.bank

    @property
    def stats(self) -> Stats:
        """The batch-norm statistics of all tasks, stacked along a leading axis; `{}` if there are none."""
        return self.model.stats

    @numerics.with_fixed_flags
    def mask(self, task: SupportsIndex) -> Adapter:
        """Return the mask of a task: a pytree of 0 and 1 with the structure of the weights.

        Raises:
            UserError: if the task does not exist, or the method has no masks.
        """
        if not self.method.has_masks:
            raise UserError(f"{name_of('method', self.experiment.method)} has no masks; use weights_for")
        model, number = self._model_with(self._existing(task))
        return model.adapter(number)

    @numerics.with_fixed_flags
    def weights_for(self, task: SupportsIndex) -> Weights:
        """Return the effective weights of a task, which the network runs with.

        Raises:
            UserError: if the task does not exist, or the method can only compute them from images.
        """
        if self.method.recovers:
            raise UserError("HopSupSup stores no masks; use predict, which recovers a mask from images of one task")
        model, number = self._model_with(self._existing(task))
        return model.effective_weights(number)

    @numerics.with_fixed_flags
    def stats_for(self, task: SupportsIndex) -> Stats:
        """Return the batch-norm statistics of a task.

        Raises:
            UserError: if the task does not exist.
        """
        model, number = self._model_with(self._existing(task))
        return model.task_stats(number)

    @numerics.with_fixed_flags
    def predict(
        self,
        images: Any,
        task: Any = None,
        search: Search | str | None = None,
        objective: Objective | str | None = None,
        reject: Any = None,
    ) -> Prediction:
        """Classify images.

        Args:
            images: see `Run`.
            task: task of all images, or one task per image, as integers; by default it is inferred for each image
                alone. HopSupSup stores no masks; it recovers one mask from all images, which must belong to one task.
            search: see `infer_task`.
            objective: see `infer_task`.
            reject: fraction of images of the learned tasks that may be rejected, such as 0.05; by default none. Images
                that look less like these tasks than all but this fraction in `calibrate` get task and label -1.

        Returns:
            The predictions.

        Raises:
            UserError: if images, tasks, search or objective do not fit, or there is no calibration to reject by.
        """
        images = self.inputs.images(images)
        if reject is not None and (task is not None or self.method.recovers):
            raise ArgumentError("reject", reject, "requires that tasks are inferred; leave reject or task out")
        if self.method.recovers:
            return self._recovered(images, task)
        rejected = np.zeros(len(images), bool)
        if task is not None:
            tasks = self._tasks_of(task, len(images))
        elif reject is None:
            tasks = self._picks(images, self.inference(search, objective))
        else:
            how, share = self.inference(search, objective), arguments.number("reject", reject)
            fitted = calibration.required(self.calibrations, how, self.record, self._num_learned, share)
            inferred = self._infer(images, how)
            rejected = fitted.rejects(inferred.scores, inferred.tasks, share)
            tasks = np.where(rejected, np.int32(-1), inferred.tasks)
        logits = np.zeros((len(images), self.net.num_outputs), np.float32)
        progress = Progress("classifying", len(images), "images")
        for number in np.unique(tasks[~rejected]).tolist():
            rows = np.flatnonzero(tasks == number)
            logits[rows] = self._in_batches(
                lambda batch, task=number: self._logits(task, batch), images[rows], progress
            )
        classified = predicted(logits, tasks, self._class_labels(), self.inputs.num_classes)
        return without(rejected, classified) if reject is not None else classified

    @numerics.with_fixed_flags
    def infer_task(
        self,
        images: Any,
        return_scores: bool = False,
        search: Search | str | None = None,
        objective: Objective | str | None = None,
    ) -> Int[np.ndarray, " images"] | InferredTasks:
        """Infer the task of each image.

        Args:
            images: see `Run`.
            return_scores: whether to also return all scores and a confidence.
            search: "one_shot", "binary", "shortlist", "exhaustive" or "descent". By default that of the experiment. If
                it does not support the method, or tasks were given in the experiment, the default is "one_shot" for
                masks and "exhaustive" for other adapters.
            objective: "entropy", "superfluous" or, for the exhaustive search, "maximum"; by default the experiment's.

        Returns:
            The tasks, or an `InferredTasks` if `return_scores` is set.

        Raises:
            UserError: if the images, the search or the objective do not fit.
        """
        images = self.inputs.images(images)
        how = self.inference(search, objective)
        return self._infer(images, how) if return_scores else self._picks(images, how)

    @numerics.with_fixed_flags
    def calibrate(
        self,
        images: Any,
        tasks: Any,
        search: Search | str | None = None,
        objective: Objective | str | None = None,
    ) -> Calibration:
        """Fit the temperature of the confidence, and store how the learned tasks' images look to the search.

        Afterwards `infer_task` returns the fitted confidence, and `predict` can reject images, until the next task is
        learned. The calibration is saved in the run's folder.

        Args:
            images: see `Run`; images of every learned task that were not trained on. To reject at most the fraction r,
                at least 1/r - 1 images are needed.
            tasks: the task of each image, or one task for all.
            search: see `infer_task`.
            objective: see `infer_task`.

        Returns:
            The calibration.

        Raises:
            UserError: if the images, the tasks, the search or the objective do not fit, or the run has only one task.
        """
        images, how = self.inputs.images(images), self.inference(search, objective)
        numbers, inferred = self._tasks_of(tasks, len(images)), self._infer(images, how)
        if missing := sorted({*range(self._num_learned)} - {*numbers.tolist()}):
            raise UserError(f"tasks: there are no images of task {missing[0]}; give some of every learned task")
        fitted = calibration.calibration_of(how, self.record, inferred.scores, inferred.tasks, numbers)
        return self.add_calibration(fitted)

    @property
    def calibrations(self) -> list[Calibration]:
        """The calibrations of the run: at most one for each search and objective.

        Raises:
            UserError: if the file that contains them is damaged.
        """
        if self._calibrations is None:
            self._calibrations = calibration.read(self.folder)
        return self._calibrations

    def add_calibration(self, new: Calibration) -> Calibration:
        """Add a calibration, save it if the run has a folder, and return it."""
        self._calibrations = calibration.added(self.calibrations, new)
        calibration.write(self.folder, self._calibrations)
        return new

    @numerics.with_fixed_flags
    def export(self, path: str | os.PathLike[str], task: SupportsIndex | None = None) -> None:
        """Export `predict` as a program that needs only JAX, for CPU and GPU (StableHLO, by `jax.export`).

        `jax.export.deserialize(bytearray(path.read_bytes())).call(images)` takes any number of uint8 images, and
        returns their classes, tasks and logits.

        Args:
            path: file to write.
            task: task of all images; by default it is inferred for each image alone.

        Raises:
            UserError: if the task does not exist, or the method cannot be exported.
        """
        if self.net.uses_batch:
            raise UserError("a network whose outputs depend on the other images of the batch cannot be exported")
        model = self.model
        counts = jnp.asarray(classes_of(self._class_labels(), self.inputs.num_classes))
        if task is not None:
            number = self._existing(task)
            effective, stats = self.weights_for(number), self.stats_for(number)

            def logits_of(image: Array) -> tuple[Array, Array]:
                logits, _ = self.net.apply(effective, stats, self.inputs.normalise(image[None]), train=False)
                return logits[0], jnp.int32(number)
        else:
            search = self.inference()
            model = self.model_for(search)

            def logits_of(image: Array) -> tuple[Array, Array]:
                (picked,) = search(model, self.inputs.normalise(image[None]))
                return self._logits(picked, image[None])[0], picked

        def predict(image: Array) -> tuple[Array, Array, Array]:
            logits, task = logits_of(image)
            of_task = jnp.where(jnp.arange(len(logits)) < counts[task], logits, -jnp.inf)
            return of_task.argmax().astype(jnp.int32), task, logits

        export_program(predict, self.inputs.image_shape, arguments.path("path", path))

    def account(self) -> records.Account:
        """Return the bytes needed to classify images, by content."""
        return records.account(self.model, self.has_given_weights)

    def _existing(self, task: SupportsIndex) -> int:
        """Return the number of a task, after checking that the task exists."""
        num_tasks = self._num_learned  # raises an error if there is none
        number = arguments.integer("task", task)
        if not 0 <= number < num_tasks:
            raise UserError(f"there is no task {number}; there are tasks 0 to {num_tasks - 1}")
        return number

    def _tasks_of(self, task: Any, images: int) -> Int[np.ndarray, " images"]:
        """Return the task of each image."""
        tasks = arguments.array("task", task)
        is_whole = tasks.dtype.kind == "f" and tasks.size and (np.isfinite(tasks) & (tasks == np.rint(tasks))).all()
        if not (is_whole or np.issubdtype(tasks.dtype, np.integer)) or tasks.shape not in ((), (images,)):
            raise UserError(
                f"task has shape {tasks.shape} and type {tasks.dtype}; give an integer, or one for each image"
            )
        for number in np.unique(tasks).tolist():
            self._existing(int(number))
        return np.broadcast_to(tasks, images).astype(np.int32)

    def inference(self, search: Search | str | None = None, objective: Objective | str | None = None) -> Search:
        """Return the search that infers tasks; for the arguments, see `infer_task`.

        Raises:
            UserError: if the search or the objective does not support the run's method.
        """
        return search_for(self.experiment, self.method, self.net, self.inputs.num_classes, (search, objective))

    def _infer(self, images: np.ndarray, search: Search) -> InferredTasks:
        model, progress = self.model_for(search), Progress("inferring tasks", len(images), "images")
        tasks, scores = self._in_batches(
            lambda batch: prediction.inferred(model, self.inputs, search, batch), images, progress
        )
        return self._with_confidence(search, tasks, scores)

    def _picks(self, images: np.ndarray, search: Search) -> Int[np.ndarray, " images"]:
        """Return the inferred tasks alone."""
        return self._infer(images, search).tasks

    def _with_confidence(self, search: Search, tasks: np.ndarray, scores: np.ndarray) -> InferredTasks:
        """Return inferred tasks with their scores and their confidence."""
        if fitted := calibration.fitting(self.calibrations, search, self.record, self._num_learned):
            return InferredTasks(tasks, scores, fitted.confidence(scores, tasks).astype(np.float32))
        share = np.asarray(jax.nn.softmax(-scores, axis=-1))
        return InferredTasks(tasks, scores, np.take_along_axis(share, tasks[:, None], 1)[:, 0])

    def _logits(self, task: int | Array, images: np.ndarray | Array) -> Array:
        model, number = self._model_with(task)
        return prediction.logits(model, self.inputs, jnp.int32(number), images)

    def _in_batches(self, function: Callable[[np.ndarray], Any], images: np.ndarray, progress: Progress) -> Any:
        return jax.device_get(function(images)) if self.net.uses_batch else in_batches(function, images, progress)

    def _recovered(self, images: np.ndarray, task: Any) -> Prediction:
        """Return the predictions for images of one task, with a mask recovered from the memory."""
        if task is not None:
            raise UserError("HopSupSup recovers a mask from the images, so the task cannot be given; leave task out")
        logits = logits_by_recovery(self.model, self.experiment.scenario, self.inputs, images)
        return predicted(logits, np.full(len(images), -1, np.int32), self._class_labels(), self.inputs.num_classes)

    def _class_labels(self) -> list[list[Any] | None]:
        """Return the class labels of each user-supplied task; `None` for the other tasks."""
        if self.experiment.scenario.discovers:
            return [None] * self._num_learned
        return [result.labels for result in self.record.tasks]
