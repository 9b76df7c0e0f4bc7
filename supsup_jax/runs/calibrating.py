"""Calibration of a run on the test images of its benchmark."""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from supsup_jax.data import Dataset
from supsup_jax.data.conventions import converted
from supsup_jax.errors import UserError
from supsup_jax.inference import Search
from supsup_jax.inference.confidence import Reliability, confidence, reliability
from supsup_jax.metrics import usual_masks
from supsup_jax.runs.calibration import Calibration, calibration_of
from supsup_jax.runs.evaluate import load_dataset
from supsup_jax.runs.prediction import in_batches, picks_and_scores
from supsup_jax.runs.run import Run
from supsup_jax.system import numerics
from supsup_jax.system.progress import Progress

REJECT = 0.05
"""The fraction of known images to reject, for which the result is measured."""


@dataclass(frozen=True)
class Calibrated:
    """A calibration, and its quality on other test images than it was fitted on.

    Attributes:
        calibration: the calibration.
        found: fraction of the other images whose task was inferred correctly.
        curve: reliability curve of the fitted confidence of the other images.
        before: the same at temperature 1.
        rejected: fraction of the other images that `predict` with `reject=0.05` rejects; NaN if the calibration has too
            few images for it.
    """

    calibration: Calibration
    found: float
    curve: Reliability
    before: Reliability
    rejected: float


@numerics.with_fixed_flags
def calibrate(
    run: Run,
    images_per_task: int,
    data: str | os.PathLike[str] | Dataset | None = None,
    search: Search | str | None = None,
    objective: Any = None,
) -> Calibrated:
    """Calibrate a run on test images of its tasks, save the calibration, and measure it on other test images.

    Args:
        run: a run that a script made.
        images_per_task: number of test images per task to calibrate on. As many others are used to measure it; both
            are half of a task's test images if it has fewer.
        data: see `evaluate`.
        search: see `Predictor.infer_task`.
        objective: see `Predictor.infer_task`.

    Raises:
        UserError: if the data, the search or the objective do not fit, or the run has only one task.
    """
    how = run.inference(search, objective)
    if any(task.labels for task in run.record.tasks) or run.experiment.shares_batches:
        raise UserError("the tasks of this run have no test images in memory; call run.calibrate(images, tasks)")
    if images_per_task < 1:
        raise UserError(f"images {images_per_task}: must be at least 1 for each task")
    fitted, others = _tests(run, how, images_per_task, data)
    calibration = run.add_calibration(calibration_of(how, run.record, *fitted))
    scores, inferred, tasks = others
    right = inferred == tasks
    curve, before = (
        reliability(confidence(scores, inferred, temperature), right) for temperature in (calibration.temperature, 1.0)
    )
    enough = (len(calibration.novelties) + 1) * REJECT >= 1
    rejected = float(calibration.rejects(scores, inferred, REJECT).mean()) if enough else float("nan")
    return Calibrated(calibration, float(right.mean()), curve, before, rejected)


class _Inferred(NamedTuple):
    """Scores, inferred tasks and right tasks of images."""

    scores: Float[np.ndarray, "images tasks"]
    inferred: Int[np.ndarray, " images"]
    tasks: Int[np.ndarray, " images"]


def _tests(run: Run, search: Search, count: int, data: Any) -> tuple[_Inferred, _Inferred]:
    """Infer the tasks of random test images, and return the images to fit on and the images to measure.

    Args:
        run: the run.
        search: the search.
        count: number of images per task of each of the two.
        data: see `calibrate`.
    """
    dataset = converted(data, "data") if isinstance(data, Dataset) else load_dataset(run, data)
    benchmark = run.experiment.build(dataset).benchmark
    slots = usual_masks([result.slots for result in run.record.stream]) if run.record.stream else range(run.num_tasks)
    entries = [(task, int(slot)) for task, slot in enumerate(slots) if slot >= 0]  # streams may skip a task
    numbers = [run.experiment.first_task + task for task, _ in entries]
    described = benchmark.tasks(dataset, run.experiment.seed, numbers)
    infer = jax.jit(picks_and_scores, static_argnames="search")
    progress = Progress("inferring tasks", 2 * count * len(entries), "images")
    halves: tuple[list[_Inferred], list[_Inferred]] = [], []
    for row, (task, slot) in enumerate(entries):
        description = jax.tree.map(lambda leaf, row=row: leaf[row], described)
        size = int(benchmark.size(description, train=False))
        order = np.random.default_rng([run.experiment.seed, task]).permutation(size)
        chosen = min(count, size // 2)
        for half, start in zip(halves, (0, chosen), strict=True):
            rows = order[start : start + chosen]
            images, _ = benchmark.samples(dataset.test, description, rows, train=False)
            inferred, scores = in_batches(partial(infer, run.model, search), np.asarray(images), progress)
            half.append(_Inferred(scores, inferred, np.full(chosen, slot)))
    fitted, others = (_Inferred(*map(np.concatenate, zip(*half, strict=True))) for half in halves)
    return fitted, others
