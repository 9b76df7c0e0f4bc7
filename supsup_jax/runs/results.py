"""Files that a run writes for users and other programs: tables, metrics and settings.

Every file in a run's folder is written as a whole from the run's record, at the start and after each evaluation, so
that a resumed run writes the same files. Between evaluations, tasks are appended to `metrics.jsonl`. Rows are always
appended, under a lock, to `results.csv`, which many runs share.
"""

import contextlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from supsup_jax.errors import UserError, warn
from supsup_jax.runs import formats
from supsup_jax.runs.records import (
    CHECKS,
    ERRORS,
    EvaluationResult,
    Record,
    TaskResult,
    compared_of,
    error_of_mean,
    matrices,
    metrics_of,
    total,
)
from supsup_jax.runs.shared_table import append_results
from supsup_jax.system import atomic, backend, extras, numerics, versions
from supsup_jax.system.rows import csv_text
from supsup_jax.system.yaml import read_yaml

ADAPT_HEADER = ["Date Finished", "Name", "Task", "Num Tasks Learned", "Current Val", "Adapt Val"]

SETTINGS = "settings.yaml"
"""File with the experiment of a run, its command and its environment."""

_METRICS = "metrics.jsonl"


def new_folder(parent: Path, name: str) -> Path:
    """Create the folder of a new run: `name`, or `name~try=1` and so on if it exists."""
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


def remove_unused(folder: Path) -> None:
    """Delete the folder of a run that was rejected before it started."""
    with contextlib.suppress(OSError):
        if not (folder / SETTINGS).exists():
            (folder / ".lock").unlink(missing_ok=True)
            folder.rmdir()


def existing_folders(parent: Path, name: str) -> list[Path]:
    """Return the folders of all runs of a name, newest first."""
    tries = {0: parent / name}
    for folder in parent.glob(f"{name}~try=*"):
        attempt = folder.name.removeprefix(f"{name}~try=")
        if attempt.isdecimal():
            tries[int(attempt)] = folder
    return [tries[attempt] for attempt in sorted(tries, reverse=True) if tries[attempt].is_dir()]


def has_checkpoints(folder: Path) -> bool:
    """Return whether a run can be resumed or restored; copies of its tables cannot."""
    return (folder / "checkpoints").is_dir()


def settings_text(settings: dict[str, Any], command: Sequence[str] | None = None) -> str:
    """Return the contents of `settings.yaml`: the experiment of a run, its command and its environment.

    Args:
        settings: settings of the experiment, and options.
        command: the command that started the run; by default the one of this process.
    """
    environment = {
        "python": platform.python_version(),
        "versions": versions.installed(),
        "jax_flags": numerics.rounding(),
        "cores": backend.cores(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "command": list(command or sys.argv),
    }
    return yaml.safe_dump(settings | environment, sort_keys=False)


def write_settings(folder: Path, settings: dict[str, Any], command: Sequence[str] | None = None) -> None:
    """Write `settings.yaml`; for the arguments, see `settings_text`."""
    write_text(folder, settings_text(settings, command))


def write_text(folder: Path, settings: str) -> None:
    """Write `settings.yaml` with contents from `settings_text`."""
    atomic.write(folder / SETTINGS, settings)


def read_settings(folder: Path) -> dict[str, Any]:
    """Read `settings.yaml`; returns an empty dictionary if there is none.

    Raises:
        UserError: if the file does not contain settings as `write_settings` writes them.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return {}
    try:
        settings: Any = read_yaml(path)
    except FileNotFoundError:  # removed in the meantime
        return {}
    except ValueError:
        settings = None
    if not _are_settings(settings):
        raise UserError(f"{path} does not contain the settings of a run; restore the file, or start without --resume")
    return settings | {"experiment": formats.upgraded(settings["experiment"])}


def _are_settings(plain: Any) -> bool:
    """Return whether plain data have the form of settings; the settings of the experiment are not checked."""
    if not isinstance(plain, dict) or not isinstance(plain.get("experiment"), dict):
        return False
    options, packages, command = (plain.get(name) for name in ("options", "versions", "command"))
    devices = plain.get("devices") or []
    if not isinstance(devices, list) or not all(isinstance(device, str) for device in devices):
        return False
    match options:
        case None | {"data": str(), "tasks_at_once": int() | None}:
            learned_in = (options or {}).get("learned_in")
            kinds = ((packages, dict | None), (command, list | None), (learned_in, str | None))
            return all(isinstance(value, kind) for value, kind in kinds)
    return False


def add_unreadable(folder: Path, names: Iterable[str]) -> Path:
    """Add the names of images to `unreadable.txt`, without duplicates, and return its path."""
    path = folder / "unreadable.txt"
    known = path.read_text().splitlines() if path.exists() else []
    atomic.write(path, "".join(f"{name}\n" for name in dict.fromkeys([*known, *names])))
    return path


def is_finished(folder: Path, evaluations: Iterable[int]) -> bool:
    """Return whether `metrics.jsonl` of a run has an evaluation at each of these numbers of tasks."""
    try:
        lines = [json.loads(line) for line in (folder / _METRICS).read_text().splitlines()]
        return set(evaluations) <= {line["num_tasks"] for line in lines if line["kind"] == "evaluation"}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _git_commit() -> str | None:
    """Return the commit of the running code, marked if the code has changed since; `None` outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + (" and uncommitted changes" if changes.stdout.strip() else "")


def write_files(folder: Path, name: str, record: Record) -> None:
    """Write the tables and metrics of a run from its record.

    Always writes `accuracy_matrix.csv`, `metrics.csv`, `storage.csv` and `metrics.jsonl`. Also writes
    `adapt_results.csv` and `confusion.csv` if tasks were inferred, `recovery.csv` if masks were recovered, and
    `stream.csv` if task boundaries were hidden.
    """
    inferred = [result for result in record.evaluations if result.inferred is not None]
    if inferred:
        adapt = [
            [result.finished, name, task, result.num_tasks, f"{given:.4f}", f"{accuracy:.4f}"]
            for result in inferred
            for task, (given, accuracy) in enumerate(zip(result.given, result.inferred or [], strict=True))
        ]
        atomic.write(folder / "adapt_results.csv", csv_text([ADAPT_HEADER, *adapt]))
        confusion = [[result.num_tasks, *cell] for result in inferred for cell in result.confusion or []]
        header = ["Num Tasks Learned", "Task", "Inferred Task", "Batches"]
        atomic.write(folder / "confusion.csv", csv_text([header, *confusion]))

    by_identity = matrices(record)
    num_tasks = max((count for rows in by_identity.values() for count in rows), default=0)
    matrix = [
        [count, kind, *(f"{accuracy:.4f}" for accuracy in accuracies)]
        for kind, rows in by_identity.items()
        for count, accuracies in rows.items()
    ]
    header = ["Num Tasks Learned", "Task Identity", *(f"Task {task}" for task in range(num_tasks))]
    atomic.write(folder / "accuracy_matrix.csv", csv_text([header, *matrix]))
    summary = [
        [
            *(count, kind),
            *("" if value is None else _signed(value) for value in metrics_of(record, count)[kind]),
            compared_of(record, count)[kind],
        ]
        for kind, rows in by_identity.items()
        for count in rows
    ]
    header = ["Num Tasks Learned", "Task Identity", "Average Accuracy", "Forgetting", "Backward Transfer"]
    header.append("Tasks Compared")
    atomic.write(folder / "metrics.csv", csv_text([header, *summary]))

    header = ["Num Tasks Learned", "What", "Bytes"]
    account = [
        [result.num_tasks, content, size] for result in record.evaluations for content, size in result.storage.items()
    ]
    atomic.write(folder / "storage.csv", csv_text([header, *account]))

    recovery = [
        [result.num_tasks, task, step, *("" if value is None else f"{value:g}" for value in values)]
        for result in record.evaluations
        for task, path in enumerate(result.recovery or [])
        for step, values in enumerate(zip_longest(*path.values()))
    ]
    if recovery:
        header = ["Num Tasks Learned", "Task", "Step", "Hamming Distance", "Energy", "Entropy"]
        atomic.write(folder / "recovery.csv", csv_text([header, *recovery]))

    if record.stream:
        header = ["Task", "First Batch", "Batches", "Mask"]
        starts = [np.cumsum([0, *(batches for _, batches in result.slots)]) for result in record.stream]
        stream = [
            [result.task, int(first), batches, slot]
            for result, of_task in zip(record.stream, starts, strict=True)
            for (slot, batches), first in zip(result.slots, of_task, strict=False)
        ]
        atomic.write(folder / "stream.csv", csv_text([header, *stream]))

    lines = [{"kind": "evaluation", **_means(result)} for result in record.evaluations]
    evaluations = "".join(json.dumps(line) + "\n" for line in lines)
    atomic.write(folder / _METRICS, _task_lines(record.tasks) + evaluations)


def append_tasks(folder: Path, tasks: Iterable[TaskResult]) -> None:
    """Append tasks to `metrics.jsonl`; when the file is next written as a whole, evaluations follow the tasks."""
    atomic.append(folder / _METRICS, _task_lines(tasks))


def _task_lines(tasks: Iterable[TaskResult]) -> str:
    return "".join(json.dumps({"kind": "task", **_without(task, "mask", "labels")}) + "\n" for task in tasks)


def _means(result: EvaluationResult) -> dict[str, Any]:
    """Return an evaluation as plain data with means over tasks instead of values per task, without missing values."""
    plain: dict[str, Any] = _without(result, "confusion", "recovery", "discovery", "storage")
    plain |= result.discovery or {}
    plain["kept_bytes"] = total(result.storage)
    plain |= {name: int(sum(plain[name])) for name in CHECKS if name in plain}
    plain |= {name: error_of_mean(plain[name]) for name in ERRORS if name in plain}
    return {name: float(np.mean(value)) if isinstance(value, list) else value for name, value in plain.items()}


def _signed(fraction: float) -> str:
    """Format a fraction with four decimal places, and without a sign if it rounds to zero."""
    return f"{fraction:.4f}".replace("-0.0000", "0.0000")


def _without(result: TaskResult | EvaluationResult, *names: str) -> dict[str, Any]:
    """Return a result as plain data, without these fields and without missing values."""
    return {name: value for name, value in vars(result).items() if name not in names and value is not None}


class EventWriter:
    """Writer of TensorBoard events of a run, as tasks and evaluations are added; a context manager.

    Args:
        folder: folder of the run; events of an earlier attempt are replaced.
    """

    def __init__(self, folder: Path):
        from tensorboardX.event_file_writer import EventsWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        # Do not use SummaryWriter: a full disk ends its thread, and it then waits for that thread forever.
        self._writer = EventsWriter(str(folder / "events"))
        self._written = (0, 0)

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, record: Record) -> None:
        """Write the measurements that were added to the record since the last call."""
        tasks, evaluations = self._written
        for task in record.tasks[tasks:]:
            for tag in ("loss", "accuracy", "seconds"):
                if (value := getattr(task, tag)) is not None:
                    self._add(f"task/{tag}", value, task.task)
        for result in record.evaluations[evaluations:]:
            means = _means(result)
            for tag in ("given", "inferred", "inferred_per_image", "picked", "picked_per_image"):
                if tag in means:
                    self._add(f"tasks_learned/{tag}", means[tag], result.num_tasks)
        self._writer.flush()
        self._written = len(record.tasks), len(record.evaluations)

    def _add(self, tag: str, value: float, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import scalar

        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(tag, value)))


def _can_write_events() -> bool:
    """Return whether tensorboardX can be imported; print a warning if it is installed, but its import fails."""
    if not extras.is_installed("tensorboard"):
        return False  # the user was told at the start
    try:
        extras.require("tensorboard", "writing TensorBoard events")
    except UserError as error:
        warn(f"no TensorBoard events are written: {error}")
        return False
    return True


class Tables:
    """Tables, metrics and events of a run that a script started; without events if tensorboardX cannot be imported.

    Args:
        folder: folder of the run.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._has_events = _can_write_events()
        self._events: EventWriter | None = None

    def close(self) -> None:
        """Close the file of events."""
        if self._events is not None:
            self._events.__exit__()

    def write(self, record: Record, added: Record, is_new: bool) -> None:
        """Update the files of the run.

        Args:
            record: all measurements.
            added: the part of `record` that the files may lack.
            is_new: whether the files contain nothing of `added`. If `added` has only tasks, only these are written
                then.

        Raises:
            UserError: if `results.csv` cannot be used; nothing is written then.
        """
        name = self._folder.name
        if added.tasks:
            append_results(self._folder.parent / "results.csv", self._folder, name, added.tasks, is_new)
        if is_new and not (added.evaluations or added.stream):
            append_tasks(self._folder, added.tasks)
        else:
            write_files(self._folder, name, record)
        if self._has_events:
            self._events = self._events or EventWriter(self._folder)
            self._events.write(record)
