"""Calibration of a run: the temperature of its confidence, and how novel images of its tasks look to a search.

A run may have a calibration for each search and objective. `calibration.json` in its folder contains them.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import typeguard
from jaxtyping import Bool, Float, Int

from supsup_jax.errors import ArgumentError, UserError
from supsup_jax.inference import Search
from supsup_jax.inference.confidence import check_reject, confidence, fit_temperature, is_rejected, novelty, reliability
from supsup_jax.runs import composition
from supsup_jax.runs.records import Record
from supsup_jax.system import atomic

FILE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """Calibration of one search on images of learned tasks.

    Attributes:
        search: settings of the search and its objective, by flat name.
        num_tasks: number of tasks among which the search inferred.
        finished: when the last of these tasks was learned, to notice a different run in the same folder.
        temperature: temperature of the confidence.
        comparable: whether scores of different images can be compared; see `inference.confidence.novelty`.
        novelties: novelties of the images, in ascending order.
        found: fraction of images whose task was inferred correctly.
        error: expected calibration error of the confidence on these images.
        error_before: the same at temperature 1.
    """

    search: dict[str, Any]
    num_tasks: int
    finished: str | None
    temperature: float
    comparable: bool
    novelties: list[float]
    found: float
    error: float
    error_before: float

    def confidence(
        self, scores: Float[np.ndarray, "images tasks"], tasks: Int[np.ndarray, " images"]
    ) -> Float[np.ndarray, " images"]:
        """Return the confidence of inferred tasks."""
        return confidence(scores, tasks, self.temperature)

    def rejects(
        self, scores: Float[np.ndarray, "images tasks"], tasks: Int[np.ndarray, " images"], reject: float
    ) -> Bool[np.ndarray, " images"]:
        """Return which images are rejected; see `inference.confidence.is_rejected`.

        Raises:
            UserError: if `reject` is out of range, or the calibration has too few images for it.
        """
        novelties = novelty(scores, tasks, self.temperature, self.comparable)
        return is_rejected(novelties, self.novelties, reject)


def calibration_of(
    search: Search,
    record: Record,
    scores: Float[np.ndarray, "images tasks"],
    inferred: Int[np.ndarray, " images"],
    tasks: Int[np.ndarray, " images"],
) -> Calibration:
    """Return the calibration of a search.

    Args:
        search: the search.
        record: record of the run.
        scores: scores of images, see `Search`.
        inferred: their inferred tasks.
        tasks: their right tasks.

    Raises:
        UserError: if there are fewer than two tasks.
    """
    if scores.shape[1] < 2:
        raise UserError("the run has one task; a calibration needs at least two, since it compares their scores")
    temperature, right = fit_temperature(scores, tasks), inferred == tasks
    errors = [reliability(confidence(scores, inferred, at), right).error for at in (temperature, 1.0)]
    comparable = search.scores_are_values
    return Calibration(
        search=_plain(search),
        num_tasks=scores.shape[1],
        finished=_last_finished(record),
        temperature=temperature,
        comparable=comparable,
        novelties=np.sort(novelty(scores, inferred, temperature, comparable)).tolist(),
        found=float(right.mean()),
        error=errors[0],
        error_before=errors[1],
    )


def fitting(calibrations: Sequence[Calibration], search: Search, record: Record, num_tasks: int) -> Calibration | None:
    """Return the calibration of a search for all tasks of a run; `None` if there is none.

    Args:
        calibrations: the calibrations of the run.
        search: the search.
        record: record of the run.
        num_tasks: number of tasks of the run.
    """
    key = _plain(search), num_tasks, _last_finished(record)
    return next((each for each in calibrations if (each.search, each.num_tasks, each.finished) == key), None)


def required(
    calibrations: Sequence[Calibration], search: Search, record: Record, num_tasks: int, reject: float
) -> Calibration:
    """Return the calibration by which images are rejected; for the other arguments, see `fitting`.

    Args:
        calibrations: the calibrations of the run.
        search: the search.
        record: record of the run.
        num_tasks: number of tasks of the run.
        reject: fraction of known images to reject.

    Raises:
        UserError: if there is none, or `reject` is out of range.
    """
    check_reject(reject)
    if (found := fitting(calibrations, search, record, num_tasks)) is not None:
        return found
    how = " and ".join(f"{name} {value}" for name, value in _plain(search).items())
    problem = f"needs a calibration of {how} for {num_tasks} tasks"
    if others := [each for each in calibrations if each.search == _plain(search)]:
        problem += f", and the run has one for {others[-1].num_tasks}, of an earlier state"
    advice = "call run.calibrate(images, tasks), or: python -m supsup_jax calibrate RUN"
    raise ArgumentError("reject", reject, f"{problem}; {advice}")


def added(calibrations: Sequence[Calibration], new: Calibration) -> list[Calibration]:
    """Return the calibrations with a new one, which replaces an earlier one of the same search."""
    return [*(each for each in calibrations if each.search != new.search), new]


def read(folder: Path | None) -> list[Calibration]:
    """Read the calibrations in a run's folder. Without a file or a folder, the list is empty.

    Raises:
        UserError: if the file is damaged.
    """
    path = folder and folder / FILE
    if path is None or not path.is_file():
        return []
    try:
        stored = typeguard.check_type(json.loads(path.read_text("utf-8")), list[dict[str, Any]])
        calibrations = [Calibration(**plain) for plain in stored]
        for each in calibrations:
            for name, expected in get_type_hints(Calibration).items():
                typeguard.check_type(getattr(each, name), expected)
            if not np.isfinite([each.temperature, *each.novelties]).all() or each.temperature <= 0:
                raise ValueError
    except (ValueError, TypeError, RecursionError, typeguard.TypeCheckError):
        raise UserError(f"{path} is damaged; delete it, and calibrate the run again") from None
    return calibrations


def write(folder: Path | None, calibrations: Sequence[Calibration]) -> None:
    """Write the calibrations of a run into its folder, if it has one."""
    if folder is not None and calibrations:
        atomic.write(folder / FILE, json.dumps([dataclasses.asdict(each) for each in calibrations]))


def _plain(search: Search) -> dict[str, Any]:
    return composition.plain(search, "search")


def _last_finished(record: Record) -> str | None:
    return record.tasks[-1].finished if record.tasks else None
