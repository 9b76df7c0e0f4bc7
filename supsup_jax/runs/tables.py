"""Reading of settings and accuracies of finished runs, and summaries over attempts and seeds."""

import contextlib
import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from supsup_jax.errors import UserError
from supsup_jax.runs.records import Account, total, total_of_paper
from supsup_jax.runs.results import SETTINGS, read_settings
from supsup_jax.system.reading import read_stable
from supsup_jax.system.rows import read_rows

ABLATION = "GNu/MNISTPerm/ablation"
"""Name of the experiment whose runs differ in network, outputs and objective."""

_ACCURACIES, _STORAGE, _METRICS = TABLES = "accuracy_matrix.csv", "storage.csv", "metrics.jsonl"
"""Files that are read besides `settings.yaml`."""

# Maximum number of attempts to read tables that another process is changing.
_MAX_READS = 20

Identity = Literal["given", "inferred", "learned"]
"""Kind of accuracy: with the task given, with the task inferred, or with the task given right after training."""


class Timing(NamedTuple):
    """Durations of a run, in seconds.

    Attributes:
        tasks: number of learned tasks.
        training: training time of all these tasks.
        evaluations: duration of each evaluation, by number of tasks.
        until: training and evaluation time up to and including each evaluation, by number of tasks.
    """

    tasks: int = 0
    training: float = 0.0
    evaluations: Mapping[int, float] = MappingProxyType({})
    until: Mapping[int, float] = MappingProxyType({})

    def training_until(self, tasks: int) -> float | None:
        """Return the training time of the first `tasks` tasks; `None` if there was no evaluation after them."""
        if tasks not in self.until:
            return None
        return self.until[tasks] - sum(seconds for count, seconds in self.evaluations.items() if count <= tasks)


@dataclass(frozen=True)
class Run:
    """Contents of a run's tables.

    Attributes:
        folder: folder of the run.
        experiment: settings of the experiment.
        name: name of the experiment.
        seed: seed.
        age: key that orders the attempts at a run; larger is newer.
        accuracies: mean accuracy in % by number of tasks at each evaluation: with the task `given`, with the task
            `inferred`, and right after each task was `learned`.
        learned: mean accuracy in % right after training, for every number of tasks, also without an evaluation.
        storage: bytes needed to classify images after each evaluation, by content; empty in old runs.
        timing: durations of training and evaluations.
        about: all contents of its `settings.yaml`, including command and environment.
    """

    folder: Path
    experiment: dict[str, Any]
    name: str
    seed: int
    age: tuple[int, float]
    accuracies: dict[str, dict[int, float]]
    learned: dict[int, float]
    storage: dict[int, Account]
    timing: Timing
    about: dict[str, Any]

    @property
    def er_scale(self) -> float | None:
        """Scale of its densities, or `None`."""
        return self.experiment.get("er_scale")

    @property
    def variant(self) -> tuple[Any, ...]:
        """Values that distinguish the runs of an experiment, besides the seed."""
        if self.name == ABLATION:
            return tuple(self.experiment.get(setting) for setting in ("network", "features", "objective"))
        return (self.er_scale or 0.0,)

    def accuracy(self, identity: Identity, tasks: int) -> float | None:
        """Return the mean accuracy over the first `tasks` tasks, in %; `None` if it was not measured."""
        return self.learned.get(tasks) if identity == "learned" else self.accuracies[identity].get(tasks)


class Curve(NamedTuple):
    """Means over seeds, and their sample standard deviations (0 for a single seed)."""

    at: list[int]
    mean: list[float]
    deviation: list[float]
    seeds: int


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Read the runs in these folders and below, each once.

    Raises:
        UserError: if a folder contains no evaluated run, or files of a run are damaged.
    """
    runs: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give the folder of a run or of several runs")
        found = {path: run for path, run in _runs_below(folder).items() if run.accuracies["given"]}
        if not found:
            raise UserError(
                f"{folder} contains no evaluated run (settings.yaml and accuracy_matrix.csv); give the folder of a run "
                "or of several runs"
            )
        runs |= found
    return list(runs.values())


def find_runs(folder: Path) -> list[Run]:
    """Read the runs in a folder and below, evaluated or not; none if the folder does not exist.

    Raises:
        UserError: if files of a run are damaged.
    """
    return list(_runs_below(folder).values())


def _runs_below(folder: Path) -> dict[Path, Run]:
    """Return the runs in a folder and below by their resolved paths; links may lead to a run several times."""
    runs: dict[Path, Run] = {}
    for path in _run_folders(folder):
        resolved = path.resolve()
        if resolved not in runs and (run := read_stable(partial(_read_run, path), [path])) is not None:
            runs[resolved] = run
    return runs


def _run_folders(folder: Path) -> Iterator[Path]:
    """List the folders of runs in a folder and below, following links."""
    seen: set[tuple[int, int]] = set()
    for path, below, files in os.walk(folder, followlinks=True):
        try:
            status = os.stat(path)
        except FileNotFoundError:  # removed in the meantime
            continue
        identity = status.st_dev, status.st_ino
        if identity in seen:  # a link may lead to a parent folder
            below.clear()
            continue
        seen.add(identity)
        if {SETTINGS, _ACCURACIES} <= set(files):
            below.clear()  # skip checkpoints, which are large trees
            yield Path(path)


def _read_run(folder: Path) -> Run | None:
    """Read the tables of a run, all from the same evaluation; `None` if the folder has been removed.

    Raises:
        UserError: if the tables are damaged.
    """
    run = None
    for _ in range(_MAX_READS):
        before = _versions(folder)
        if before[SETTINGS] is None or before[_ACCURACIES] is None:
            return None
        run = _tables_of(folder)
        if _versions(folder) == before:
            break
    return run


def _versions(folder: Path) -> dict[str, Any]:
    """Return values by table that change when another process replaces the table."""
    versions: dict[str, Any] = dict.fromkeys((SETTINGS, _ACCURACIES, _STORAGE, _METRICS))
    for name in versions:
        with contextlib.suppress(FileNotFoundError):
            status = (folder / name).stat()
            versions[name] = status.st_ino, status.st_mtime_ns, status.st_size
    return versions


def _tables_of(folder: Path) -> Run:
    """Read the current tables of a run.

    Tables are written one after another, and `metrics.jsonl` is the last one. Evaluations that it lacks are ignored.

    Raises:
        UserError: if the tables are damaged.
    """
    try:
        settings = read_settings(folder)
    except UserError:
        settings = {}
    match settings:
        case {"experiment": {"name": str(name), "seed": int(seed)} as experiment}:
            table, storage, measured = (folder / name for name in (_ACCURACIES, _STORAGE, _METRICS))
            attempt = folder.name.partition("~try=")[2]
            age = int(attempt) if attempt.isdecimal() else 0, table.stat().st_mtime
            learned, timing = _read_metrics(measured)
            account = _read_storage(storage) if storage.exists() else {}
            accuracies = _read_accuracies(table)
            if measured.exists():
                account, *means = (_until(timing, values) for values in (account, *accuracies.values()))
                accuracies = dict(zip(accuracies, means, strict=True))
            accuracies["learned"] = {count: learned[count] for count in accuracies["given"] if count in learned}
            return Run(folder, experiment, name, seed, age, accuracies, learned, account, timing, settings)
    raise _damaged(folder / SETTINGS)


def _until(timing: Timing, values: dict[int, Any]) -> dict[int, Any]:
    """Return the values of evaluations whose tables are complete."""
    return {count: value for count, value in values.items() if count in timing.evaluations}


def _read_accuracies(path: Path) -> dict[str, dict[int, float]]:
    means: dict[str, dict[int, float]] = {"given": {}, "inferred": {}}
    with _rows(path) as rows:
        for count, identity, *fractions in rows:
            accuracies = [float(fraction) for fraction in fractions]
            if len(accuracies) != int(count) or not all(0 <= accuracy <= 1 for accuracy in accuracies):
                raise ValueError
            means[identity][int(count)] = 100 * fmean(accuracies)
    return means


def _read_storage(path: Path) -> dict[int, Account]:
    accounts: dict[int, Account] = defaultdict(dict)
    with _rows(path) as rows:
        for count, content, size in rows:
            accounts[int(count)][content] = int(size)
    return dict(accounts)


def _read_metrics(path: Path) -> tuple[dict[int, float], Timing]:
    """Return the mean accuracy in % right after training, by number of tasks, and the durations."""
    try:
        *whole, last = path.read_text(encoding="utf-8-sig").split("\n")
        lines = [json.loads(line) for line in whole if line.strip()]
        with contextlib.suppress(*([ValueError] if lines else [])):  # another process may be writing the last line
            lines += [json.loads(last)] if last.strip() else []
        tasks = sorted(
            (int(line["task"]), 100 * float(line["accuracy"]), float(line["seconds"]))
            for line in lines
            if line["kind"] == "task"
        )
        evaluations = sorted(
            (int(line["num_tasks"]), float(line["seconds"]), float(line["training_seconds"]))
            for line in lines
            if line["kind"] == "evaluation"
        )
    except FileNotFoundError:
        return {}, Timing()
    except (ValueError, LookupError, TypeError):
        raise _damaged(path) from None
    sums = enumerate(accumulate(accuracy for _, accuracy, _ in tasks), start=1)
    learned = {count: so_far / count for count, so_far in sums if math.isfinite(so_far)}
    evaluating = accumulate(seconds for _, seconds, _ in evaluations)
    until = {count: training + so_far for (count, _, training), so_far in zip(evaluations, evaluating, strict=True)}
    training = sum(seconds for *_, seconds in tasks)
    return learned, Timing(len(tasks), training, {count: seconds for count, seconds, _ in evaluations}, until)


def read_recovery(path: Path) -> dict[int, list[dict[int, float]]]:
    """Return, for each task, distance, energy and entropy at each step of its last recovery."""
    paths: dict[int, list[dict[int, float]]] = defaultdict(lambda: [{}, {}, {}])
    with _rows(path) as rows:
        last = max(int(count) for count, *_ in rows)
        for count, task, step, *values in rows:
            if len(values) == 1:  # the last step has no energy and entropy, and the reader drops empty cells at the end
                values += ["", ""]
            for of_quantity, value in zip(paths[int(task)], values, strict=True):
                if value and not math.isfinite(float(value)):
                    raise ValueError
                if int(count) == last and value:
                    of_quantity[int(step)] = float(value)
    return paths


@contextlib.contextmanager
def _rows(path: Path) -> Iterator[list[list[str]]]:
    """Read the rows of a table without its header; raises `UserError` if they cannot be parsed."""
    try:
        _, *rows = read_rows(path)
        yield rows
    except (ValueError, KeyError, csv.Error):
        raise _damaged(path) from None


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged; restore it from a copy, or give folders without this run")


def tries(runs: Iterable[Run]) -> list[list[Run]]:
    """Group runs by experiment, variant and seed; each group is sorted from the newest run to the oldest."""

    def identity(run: Run) -> tuple[str, str, int]:
        return run.name, repr(run.variant), run.seed

    newest_first = sorted(runs, key=lambda run: run.age, reverse=True)
    return [list(group) for _, group in groupby(sorted(newest_first, key=identity), identity)]


def over_seeds(seeds: Sequence[Mapping[int, float]]) -> Curve:
    """Return the mean over seeds at each position; seeds without a value there are left out."""
    at = sorted(set().union(*seeds))
    values = [[seed[position] for seed in seeds if position in seed] for position in at]
    deviation = [stdev(column) if len(column) > 1 else 0.0 for column in values]
    return Curve(at, [fmean(column) for column in values], deviation, len(seeds))


def check_settings(runs: Sequence[Run]) -> None:
    """Check that runs differ only in their seed and length, so that a mean over them is meaningful.

    Raises:
        UserError: if they differ in other settings.
    """
    first, *others = runs
    for other in others:
        for setting, value in first.experiment.items():
            other_value = other.experiment.get(setting, value)  # a run may be older than a setting
            if other_value != value and setting not in ("seed", "num_tasks", "eval_at", "first_task"):
                raise UserError(
                    f"{first.folder} and {other.folder} differ in {setting} ({value} and {other_value}); give runs "
                    "that differ only in their seeds"
                )


class StoragePoint(NamedTuple):
    """Accuracy and storage, averaged over seeds.

    Attributes:
        er_scale: scale of the densities, or `None`.
        tasks: number of learned tasks.
        megabytes: mean storage, with masks as the paper counts them.
        megabytes_of_bits: mean storage, with masks as bits.
        accuracy: mean over seeds of the mean accuracy over tasks, with the task given, in %.
        deviation: sample standard deviation of the accuracy over seeds (0 for a single seed).
        seeds: number of seeds.
    """

    er_scale: float | None
    tasks: int
    megabytes: float
    megabytes_of_bits: float
    accuracy: float
    deviation: float
    seeds: int


def storage_points(runs: Sequence[Run]) -> list[StoragePoint]:
    """Return one point for each scale of the densities, after all tasks.

    Args:
        runs: runs of one experiment with different seeds or scales.

    Raises:
        UserError: if other settings differ, or runs have different numbers of tasks or no storage table.
    """
    points = []
    for scale in sorted({run.er_scale or 0 for run in runs}):
        same = [run for run in runs if (run.er_scale or 0) == scale]
        check_settings(same)
        (tasks, *others) = {max(run.accuracies["given"]) for run in same}
        if others or not all(tasks in run.storage for run in same):
            raise UserError(
                f"{same[0].folder} and its other seeds do not all have {tasks} tasks and a storage.csv; give finished "
                "runs with the same number of tasks"
            )
        accuracy = over_seeds([{0: run.accuracies["given"][tasks]} for run in same])
        paper, bits = (fmean(count(run.storage[tasks]) for run in same) / 1e6 for count in (total_of_paper, total))
        mean, deviation = accuracy.mean[0], accuracy.deviation[0]
        points.append(StoragePoint(scale or None, tasks, paper, bits, mean, deviation, len(same)))
    return points
