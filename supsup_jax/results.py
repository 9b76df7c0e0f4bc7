"""What a run leaves behind for people and programs to read: tables, metrics, settings.

The *record* of a run is plain data that lies in its checkpoints. Every file of the run's folder is written from it,
whole, so that an interrupted and resumed run leaves the same files. Only `results.csv`, which many runs share, is
appended to, under a lock.
"""

import csv
import dataclasses
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml
from filelock import FileLock

from supsup_jax.errors import UserError
from supsup_jax.evaluation import Evaluation

RESULTS_HEADER = ["Date Finished", "Name", "Current Val", "Best Val", "Save Directory"]
ADAPT_HEADER = ["Date Finished", "Name", "Task", "Num Tasks Learned", "Current Val", "Adapt Val"]


@dataclass(frozen=True)
class TaskResult:
    """One task, right after it was learned. Accuracies are fractions.

    Attributes:
        task: its number.
        finished: when, local time.
        loss: mean cross-entropy of the last epoch, in nats.
        accuracy: on the test set after the last epoch, the task given.
        best: that of the best epoch.
        seconds: training time; tasks trained side by side share theirs equally.
    """

    task: int
    finished: str
    loss: float
    accuracy: float
    best: float
    seconds: float


@dataclass(frozen=True)
class EvaluationResult:
    """All tasks learned so far, evaluated. Accuracies are fractions, one for each task.

    Attributes:
        num_tasks: how many.
        finished: when, local time.
        seconds: how long it took.
        training_seconds: training time of these tasks.
        mask_bytes: bytes of what is kept of these tasks.
        given: accuracy with the task given (GG).
        inferred: accuracy with the task inferred once a batch (GNu).
        inferred_per_image: accuracy with the task inferred for every single image.
        picked: fraction of batches for which the right task was inferred.
        picked_per_image: fraction of images for which the right task was inferred.
        confusion: `[true task, inferred task, batches]` wherever there are any.
    """

    num_tasks: int
    finished: str
    seconds: float
    training_seconds: float
    mask_bytes: int
    given: list[float]
    inferred: list[float]
    inferred_per_image: list[float]
    picked: list[float]
    picked_per_image: list[float]
    confusion: list[list[int]]

    @classmethod
    def of(cls, evaluation: Evaluation, seconds: float, training_seconds: float, mask_bytes: int) -> "EvaluationResult":
        """The result of an evaluation that has just ended."""
        confusion = evaluation.confusion
        cells = [[int(i), int(j), int(confusion[i, j])] for i, j in np.argwhere(confusion)]
        arrays = {
            name: [float(value) for value in values]
            for name, values in evaluation._asdict().items()
            if name != "confusion"
        }
        return cls(len(evaluation.given), now(), seconds, training_seconds, mask_bytes, confusion=cells, **arrays)


@dataclass
class Record:
    """What is known of a run so far."""

    tasks: list[TaskResult] = field(default_factory=list)
    evaluations: list[EvaluationResult] = field(default_factory=list)

    def add(self, more: "Record") -> None:
        """Adds what was measured since."""
        self.tasks += more.tasks
        self.evaluations += more.evaluations

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Record":
        """From plain data."""
        return cls(
            [TaskResult(**task) for task in plain["tasks"]],
            [EvaluationResult(**evaluation) for evaluation in plain["evaluations"]],
        )


def now() -> str:
    """Date and time, local, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def new_folder(parent: Path, name: str) -> Path:
    """Makes the folder of a new run: `name`, and `name~try=1` and so on where it exists already."""
    parent.mkdir(parents=True, exist_ok=True)
    attempt = 0
    while True:
        folder = parent / (name if attempt == 0 else f"{name}~try={attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            attempt += 1
        else:
            return folder


def existing_folders(parent: Path, name: str) -> list[Path]:
    """The folders of runs of a name, the newest first."""
    tries = {0: parent / name}
    for folder in parent.glob(f"{name}~try=*"):
        attempt = folder.name.removeprefix(f"{name}~try=")
        if attempt.isdecimal():
            tries[int(attempt)] = folder
    return [tries[attempt] for attempt in sorted(tries, reverse=True) if tries[attempt].is_dir()]


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes `settings.yaml`: what the run computes, how it was called, and on what it runs."""
    environment = {
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("supsup_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
        },
        "devices": [str(device.device_kind) for device in jax.devices()],
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "command": sys.argv,
    }
    _replace(folder / "settings.yaml", yaml.safe_dump(settings | environment, sort_keys=False))


def read_settings(folder: Path) -> dict[str, Any]:
    """Reads `settings.yaml`; empty if there is none.

    Raises:
        UserError: if it does not hold what `write_settings` writes.
    """
    path = folder / "settings.yaml"
    if not path.is_file():
        return {}
    try:
        settings = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("experiment"), dict):
        raise UserError(f"{path} does not hold the settings of a run; restore it, or start without --resume")
    return settings


def _git_commit() -> str | None:
    """The commit of the code that runs, with a mark if it was changed since; nothing outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + (" and uncommitted changes" if changes.stdout.strip() else "")


def append_results(path: Path, save_directory: Path, name: str, tasks: Iterable[TaskResult]) -> None:
    """Appends one row a task to `results.csv`; rows that are there already are left as they are.

    Any number of processes may do so at once: a lock lets one write at a time, and rows are written whole.
    """
    save_directory = save_directory.resolve()
    with FileLock(path.with_name(f".{path.name}.lock")):
        known: set[tuple[str, ...]] = set()
        text = ""
        if path.is_file() and path.stat().st_size:
            with path.open(newline="") as file:
                known = {tuple(row) for row in csv.reader(file)}
            with path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                text = "" if file.read() == b"\n" else "\n"  # a row that another program left unfinished
        else:
            text = _csv([RESULTS_HEADER])
        rows = [
            [
                task.finished,
                f"{name}~task={task.task}",
                f"{task.accuracy:.4f}",
                f"{task.best:.4f}",
                str(save_directory),
            ]
            for task in tasks
        ]
        with path.open("a", newline="") as file:
            file.write(text + _csv([row for row in rows if tuple(row) not in known]))
            file.flush()
            os.fsync(file.fileno())


def write_files(folder: Path, name: str, record: Record) -> None:
    """Writes the tables and metrics of a run from its record: `adapt_results.csv`, `confusion.csv`, `metrics.jsonl`."""
    adapt = [
        [result.finished, name, task, result.num_tasks, f"{given:.4f}", f"{inferred:.4f}"]
        for result in record.evaluations
        for task, (given, inferred) in enumerate(zip(result.given, result.inferred, strict=True))
    ]
    _replace(folder / "adapt_results.csv", _csv([ADAPT_HEADER, *adapt]))
    confusion = [[result.num_tasks, *cell] for result in record.evaluations for cell in result.confusion]
    header = ["Num Tasks Learned", "Task", "Inferred Task", "Batches"]
    _replace(folder / "confusion.csv", _csv([header, *confusion]))
    lines = [{"kind": "task", **dataclasses.asdict(task)} for task in record.tasks]
    lines += [{"kind": "evaluation", **_means(result)} for result in record.evaluations]
    _replace(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _means(result: EvaluationResult) -> dict[str, Any]:
    """An evaluation with the mean over tasks in place of the tasks' own figures."""
    plain = {name: value for name, value in vars(result).items() if name != "confusion"}
    return {name: float(np.mean(value)) if isinstance(value, list) else value for name, value in plain.items()}


class EventWriter:
    """TensorBoard events of a run, written as tasks and evaluations come in; a context manager.

    Args:
        folder: the run's folder; events of an earlier attempt at the same run are replaced.
    """

    def __init__(self, folder: Path):
        from tensorboardX import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder), flush_secs=10)
        self._written = (0, 0)

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, record: Record) -> None:
        """Writes what the record has gained since the last call."""
        tasks, evaluations = self._written
        for task in record.tasks[tasks:]:
            for tag in ("loss", "accuracy", "seconds"):
                self._writer.add_scalar(f"task/{tag}", getattr(task, tag), task.task)
        for result in record.evaluations[evaluations:]:
            means = _means(result)
            for tag in ("given", "inferred", "inferred_per_image", "picked", "picked_per_image"):
                self._writer.add_scalar(f"tasks_learned/{tag}", means[tag], result.num_tasks)
        self._writer.flush()
        self._written = len(record.tasks), len(record.evaluations)


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)
