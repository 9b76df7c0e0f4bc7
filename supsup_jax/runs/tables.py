"""What runs have left on disk, read: settings and accuracies, the tries and seeds of one experiment together."""

import contextlib
import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from supsup_jax.errors import UserError
from supsup_jax.runs.records import Account, total, total_of_paper
from supsup_jax.runs.results import read_settings

ABLATION = "GNu/MNISTPerm/ablation"
"""The experiment whose runs differ in network, outputs and objective."""

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
    return {path.resolve(): _read_run(path) for path in _run_folders(folder)}


def _run_folders(folder: Path) -> Iterator[Path]:
    for path, below, files in os.walk(folder):
        if {"settings.yaml", "accuracy_matrix.csv"} <= set(files):
            below.clear()  # checkpoints are large trees without runs
            yield Path(path)


def _read_run(folder: Path) -> Run:
    try:
        settings = read_settings(folder)
    except UserError:
        settings = {}
    match settings:
        case {"experiment": {"name": str(name), "seed": int(seed)} as experiment}:
            table = folder / "accuracy_matrix.csv"
            attempt = folder.name.partition("~try=")[2]
            age = int(attempt) if attempt.isdecimal() else 0, table.stat().st_mtime
            storage = folder / "storage.csv"
            account = _read_storage(storage) if storage.exists() else {}
            accuracies, (learned, timing) = _read_accuracies(table), _read_metrics(folder / "metrics.jsonl")
            accuracies["learned"] = {count: learned[count] for count in accuracies["given"] if count in learned}
            return Run(folder, experiment, name, seed, age, accuracies, learned, account, timing, settings)
    raise _damaged(folder / "settings.yaml")


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
        lines = [json.loads(line) for line in path.read_text().splitlines()]
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
        with path.open(newline="") as file:
            _, *rows = csv.reader(file)
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
