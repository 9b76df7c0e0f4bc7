"""What runs have left on disk, read: settings and accuracies, the tries and seeds of one experiment together."""

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
"""The experiment whose runs differ in network, outputs and objective."""

_ACCURACIES, _STORAGE, _METRICS = "accuracy_matrix.csv", "storage.csv", "metrics.jsonl"

# How often tables are read that change meanwhile.
_LOOKS = 20

Identity = Literal["given", "inferred", "learned"]
"""Which accuracy: the task given, inferred, or given right after it was learned."""


class Timing(NamedTuple):
    """Seconds that a run took.

    Attributes:
        tasks: how many it has learned.
        training: of these tasks, in all.
        evaluations: of each evaluation, by the number of tasks.
        until: training and evaluations until then, by the number of tasks of an evaluation.
    """

    tasks: int = 0
    training: float = 0.0
    evaluations: Mapping[int, float] = MappingProxyType({})
    until: Mapping[int, float] = MappingProxyType({})


@dataclass(frozen=True)
class Run:
    """What the tables of a run say.

    Attributes:
        folder: where it lies.
        experiment: its settings.
        name: the experiment's name.
        seed: its seed.
        age: orders the tries of a run: the newest is the greatest.
        accuracies: mean accuracy in % by the number of tasks after which it was evaluated, for the task `given`, for
            the task `inferred`, and right after each task was `learned`.
        learned: the mean of the last kind after every number of tasks, whether evaluated there or not.
        storage: after so many tasks the bytes that have to be kept, by what they hold; empty in older runs.
        timing: how long training and evaluations took.
        about: what its settings say besides: how it was called, and on what it ran.
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
        """The scale of its densities, if it has any."""
        return self.experiment.get("er_scale")

    @property
    def variant(self) -> tuple[Any, ...]:
        """What tells the runs of one experiment apart, where its scripts vary more than the seed."""
        if self.name == ABLATION:
            return tuple(self.experiment.get(setting) for setting in ("network", "features", "objective"))
        return (self.er_scale or 0.0,)

    def accuracy(self, identity: Identity, tasks: int) -> float | None:
        """Mean accuracy over the first `tasks` tasks, in %; `None` where it was not measured."""
        return self.learned.get(tasks) if identity == "learned" else self.accuracies[identity].get(tasks)


class Curve(NamedTuple):
    """Means over seeds, and their standard deviations (of the sample; 0 for a single seed)."""

    at: list[int]
    mean: list[float]
    deviation: list[float]
    seeds: int


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Reads the runs in these folders and below, each once.

    Raises:
        UserError: if a folder holds no run that was evaluated, or a run's files are damaged.
    """
    runs: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give the folder of a run, or one above several")
        found = {path: run for path, run in _runs_below(folder).items() if run.accuracies["given"]}
        if not found:
            raise UserError(
                f"{folder} holds no run that was evaluated (settings.yaml and accuracy_matrix.csv); give the folder of "
                "a run, or one above several"
            )
        runs |= found
    return list(runs.values())


def find_runs(folder: Path) -> list[Run]:
    """Reads the runs in a folder and below, evaluated or not; none if there is no such folder.

    Raises:
        UserError: if a run's files are damaged.
    """
    return list(_runs_below(folder).values())


def _runs_below(folder: Path) -> dict[Path, Run]:
    """The runs in a folder and below by where they really lie; each may be there several times, behind links."""
    runs: dict[Path, Run] = {}
    for path in _run_folders(folder):
        place = path.resolve()
        if place not in runs and (run := read_stable(partial(_read_run, path), [path])) is not None:
            runs[place] = run
    return runs


def _run_folders(folder: Path) -> Iterator[Path]:
    """The folders with runs in a folder and below, also behind links."""
    seen: set[tuple[int, int]] = set()
    for path, below, files in os.walk(folder, followlinks=True):
        try:
            status = os.stat(path)
        except FileNotFoundError:  # removed meanwhile
            continue
        place = status.st_dev, status.st_ino
        if place in seen:  # a link may lead to a folder above it
            below.clear()
            continue
        seen.add(place)
        if {SETTINGS, _ACCURACIES} <= set(files):
            below.clear()  # checkpoints are large trees without runs
            yield Path(path)


def _read_run(folder: Path) -> Run | None:
    """What the tables of a run say, all of them of the same evaluation; `None` if the folder has been removed.

    Raises:
        UserError: if they are damaged.
    """
    run = None
    for _ in range(_LOOKS):
        before = _versions(folder)
        if before[SETTINGS] is None or before[_ACCURACIES] is None:
            return None
        run = _tables_of(folder)
        if _versions(folder) == before:
            break
    return run


def _versions(folder: Path) -> dict[str, Any]:
    """Values that differ where another process has replaced a table, by its name."""
    versions: dict[str, Any] = dict.fromkeys((SETTINGS, _ACCURACIES, _STORAGE, _METRICS))
    for name in versions:
        with contextlib.suppress(FileNotFoundError):
            status = (folder / name).stat()
            versions[name] = status.st_ino, status.st_mtime_ns, status.st_size
    return versions


def _tables_of(folder: Path) -> Run:
    """What the tables of a run say now.

    They are written one after another, `metrics.jsonl` last: what it does not have yet is left out of the others.

    Raises:
        UserError: if they are damaged.
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
    """The values of evaluations that are known to be written whole."""
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
        for count, what, size in rows:
            accounts[int(count)][what] = int(size)
    return dict(accounts)


def _read_metrics(path: Path) -> tuple[dict[int, float], Timing]:
    """The mean accuracy in % right after learning, by the number of tasks, and how long everything took."""
    try:
        *whole, last = path.read_text(encoding="utf-8-sig").split("\n")
        lines = [json.loads(line) for line in whole if line.strip()]
        with contextlib.suppress(*([ValueError] if lines else [])):  # another process is writing it
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
    """For each task the distance, energy and entropy at each step of its last recovery."""
    paths: dict[int, list[dict[int, float]]] = defaultdict(lambda: [{}, {}, {}])
    with _rows(path) as rows:
        last = max(int(count) for count, *_ in rows)
        for count, task, step, *values in rows:
            if len(values) == 1:  # energy and entropy are not known at the end, and empty cells there are left out
                values += ["", ""]
            for of_quantity, value in zip(paths[int(task)], values, strict=True):
                if value and not math.isfinite(float(value)):
                    raise ValueError
                if int(count) == last and value:
                    of_quantity[int(step)] = float(value)
    return paths


@contextlib.contextmanager
def _rows(path: Path) -> Iterator[list[list[str]]]:
    """The rows of a table below its header; a table that cannot be understood is the user's to restore."""
    try:
        _, *rows = read_rows(path)
        yield rows
    except (ValueError, KeyError, csv.Error):
        raise _damaged(path) from None


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged; restore it, or give folders without this run")


def tries(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs of one experiment, variant and seed together, the newest first."""

    def identity(run: Run) -> tuple[str, str, int]:
        return run.name, repr(run.variant), run.seed

    newest_first = sorted(runs, key=lambda run: run.age, reverse=True)
    return [list(group) for _, group in groupby(sorted(newest_first, key=identity), identity)]


def over_seeds(seeds: Sequence[Mapping[int, float]]) -> Curve:
    """The mean over seeds, at each place over those that have it."""
    at = sorted(set().union(*seeds))
    values = [[seed[place] for seed in seeds if place in seed] for place in at]
    deviation = [stdev(column) if len(column) > 1 else 0.0 for column in values]
    return Curve(at, [fmean(column) for column in values], deviation, len(seeds))


def check_settings(runs: Sequence[Run]) -> None:
    """Refuses a mean over runs that differ in more than the seed and their length.

    Raises:
        UserError: if they do.
    """
    first, *others = runs
    for other in others:
        for setting, value in first.experiment.items():
            its = other.experiment.get(setting, value)  # a run may be older than a setting
            if its != value and setting not in ("seed", "num_tasks", "eval_at", "first_task"):
                raise UserError(
                    f"{first.folder} and {other.folder} differ in {setting} ({value} and {its}); give runs that differ "
                    "in their seeds only"
                )


class StoragePoint(NamedTuple):
    """Accuracy and the bytes that have to be kept, over seeds.

    Attributes:
        er_scale: scale of the densities, if there are any.
        tasks: how many were learned.
        megabytes: mean over seeds, masks as the paper counts them.
        megabytes_of_bits: mean over seeds, masks as bits.
        accuracy: mean over seeds of the mean over tasks, the task given, in %.
        deviation: standard deviation of the accuracy over seeds (of the sample; 0 for a single seed).
        seeds: how many.
    """

    er_scale: float | None
    tasks: int
    megabytes: float
    megabytes_of_bits: float
    accuracy: float
    deviation: float
    seeds: int


def storage_points(runs: Sequence[Run]) -> list[StoragePoint]:
    """One point for each scale of densities, after all tasks.

    Args:
        runs: of one experiment, each with another seed or scale.

    Raises:
        UserError: if settings other than these differ, or runs have other numbers of tasks or no account of bytes.
    """
    points = []
    for scale in sorted({run.er_scale or 0 for run in runs}):
        same = [run for run in runs if (run.er_scale or 0) == scale]
        check_settings(same)
        (tasks, *others) = {max(run.accuracies["given"]) for run in same}
        if others or not all(tasks in run.storage for run in same):
            raise UserError(
                f"{same[0].folder} and the other seeds beside it do not all have {tasks} tasks and a storage.csv; give "
                "finished runs of one length"
            )
        accuracy = over_seeds([{0: run.accuracies["given"][tasks]} for run in same])
        paper, bits = (fmean(count(run.storage[tasks]) for run in same) / 1e6 for count in (total_of_paper, total))
        mean, deviation = accuracy.mean[0], accuracy.deviation[0]
        points.append(StoragePoint(scale or None, tasks, paper, bits, mean, deviation, len(same)))
    return points
