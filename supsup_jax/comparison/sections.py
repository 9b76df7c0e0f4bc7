"""Grouping of runs by benchmark and method, with the settings in which the methods of a benchmark differ."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from supsup_jax.comparison.measures import MEASURES, Statistic, forward_transfer, measured
from supsup_jax.runs import composition
from supsup_jax.runs.tables import Curve, Run, over_seeds

_NOT_COMPARED = ("name", "seed", "num_tasks", "eval_at")
"""Settings that do not distinguish methods: the runs of a method may differ in them."""

_MOST_IN_LABEL = 4
"""Largest number of settings that a label contains."""


@dataclass(frozen=True)
class Row:
    """The runs of one method: they differ only in their seed and length.

    Attributes:
        label: name of the method, with the settings that distinguish it from other rows.
        num_tasks: number of learned tasks at which it is compared.
        runs: the compared runs, one for each seed.
        settings: all settings except for those of the benchmark, by flat name.
        statistics: the measured quantities; see `MEASURES`.
        curves: accuracy in % against tasks learned, with the task `given` and `inferred`.
    """

    label: str
    num_tasks: int
    runs: tuple[Run, ...]
    settings: dict[str, Any]
    statistics: dict[str, Statistic]
    curves: dict[str, Curve]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the compared runs."""
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Section:
    """The methods on one benchmark: the same data set, tasks and order.

    Attributes:
        title: name of the benchmark.
        tasks: settings of the tasks and the data set.
        rows: the methods.
        differing: settings and parts of the environment in which the rows differ, with the value of each row; `None`
            if a row does not have the setting.
        notes: sentences on runs that were left out and on limits of the comparison.
    """

    title: str
    tasks: dict[str, Any]
    rows: tuple[Row, ...]
    differing: dict[str, list[Any]]
    notes: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """The quantities that at least one row has."""
        return [name for name in MEASURES if any(name in row.statistics for row in self.rows)]

    @property
    def not_measured(self) -> dict[str, str]:
        """The quantities that no row has, with the reason."""
        return {name: measure.missing for name, measure in MEASURES.items() if name not in self.columns}


def compare(runs: Iterable[Run]) -> list[Section]:
    """Return a section for each benchmark of the runs.

    Args:
        runs: evaluated runs.

    Raises:
        UserError: if a table of a run is damaged.
    """
    of_benchmark: dict[str, list[Run]] = defaultdict(list)
    tasks_of: dict[str, dict[str, Any]] = {}
    for run in runs:
        tasks = _tasks_of(run)
        of_benchmark[_key(tasks)].append(run)
        tasks_of[_key(tasks)] = tasks
    return [_section(tasks_of[key], of_benchmark[key]) for key in sorted(of_benchmark)]


def _tasks_of(run: Run) -> dict[str, Any]:
    """Return the settings that determine the tasks of a run, except for their number and the seed."""
    tasks = composition.settings_of_tasks(run.experiment) | {"first_task": run.experiment.get("first_task", 0)}
    return {name: value for name, value in tasks.items() if name not in _NOT_COMPARED}


def _section(tasks: dict[str, Any], runs: Sequence[Run]) -> Section:
    groups: dict[str, list[Run]] = defaultdict(list)
    settings_of: dict[str, dict[str, Any]] = {}
    for run in sorted(runs, key=lambda run: run.age, reverse=True):
        settings = {
            name: value
            for name, value in composition.normalised(run.experiment).items()
            if name not in (*_NOT_COMPARED, *tasks)
        }
        groups[_key(settings)].append(run)
        settings_of[_key(settings)] = settings
    evaluated = {key: {count for run in group for count in run.accuracies["given"]} for key, group in groups.items()}
    common = set.intersection(*evaluated.values())
    notes: list[str] = []
    compared = {}
    for key, group in groups.items():
        count = max(common or evaluated[key])
        compared[key] = count, _one_for_each_seed(group, count, notes)
    labels = _labels(settings_of, {key: group[0].name for key, group in groups.items()})
    references = [
        run
        for key, (_, chosen) in compared.items()
        if settings_of[key].get("method") == "UpperBound" and not settings_of[key].get("fine_tunes")
        for run in chosen
    ]
    rows = [_row(labels[key], count, chosen, settings_of[key], references) for key, (count, chosen) in compared.items()]
    rows.sort(key=lambda row: -max(_mean(row, "inferred"), _mean(row, "given")))
    differing = _differing(rows)
    return Section(_title(tasks), tasks, tuple(rows), differing, tuple(notes + _limits(rows, differing, common)))


def _one_for_each_seed(runs: Sequence[Run], count: int, notes: list[str]) -> tuple[Run, ...]:
    """Return the newest run of each seed that was evaluated after `count` tasks; add notes on the other runs."""
    chosen: dict[int, Run] = {}
    for run in runs:  # from the newest to the oldest
        if count not in run.accuracies["given"]:
            notes.append(f"{run.folder} is left out: it was not evaluated after {count} tasks.")
        elif run.seed in chosen:
            notes.append(
                f"{run.folder} is left out: {chosen[run.seed].folder} has the same settings and seed, and is newer."
            )
        else:
            chosen[run.seed] = run
    return tuple(chosen[seed] for seed in sorted(chosen))


def _row(label: str, count: int, runs: tuple[Run, ...], settings: dict[str, Any], references: list[Run]) -> Row:
    values = {run.seed: measured(run, count) | {"forward": forward_transfer(run, count, references)} for run in runs}
    statistics = {
        name: statistic
        for name in MEASURES
        if (statistic := Statistic.over({seed: of_run[name] for seed, of_run in values.items()})) is not None
    }
    curves = {kind: over_seeds([run.accuracies[kind] for run in runs]) for kind in ("given", "inferred")}
    return Row(label, count, runs, settings, statistics, {kind: curve for kind, curve in curves.items() if curve.at})


def _mean(row: Row, name: str) -> float:
    return row.statistics[name].mean if name in row.statistics else 0.0


def _labels(settings_of: dict[str, dict[str, Any]], names: dict[str, str]) -> dict[str, str]:
    """Return a label for each row: method and scenario, with the settings that distinguish rows with the same ones."""
    labels = {key: f"{settings.get('method')} ({settings.get('scenario')})" for key, settings in settings_of.items()}
    for label, number in Counter(labels.values()).items():
        same = [key for key in labels if labels[key] == label]
        if number == 1:
            continue
        differing = _different([settings_of[key] for key in same])
        for row, key in enumerate(same):
            shown = [f"{name} {_shown(values[row])}" for name, values in differing.items() if values[row] is not None]
            labels[key] = ", ".join([label, *shown[:_MOST_IN_LABEL]])
    for label, number in Counter(labels.values()).items():
        if number > 1:  # too many settings differ: the experiments' names are clearer
            for key in [key for key in labels if labels[key] == label]:
                labels[key] = f"{label}, {names[key]}"
    return labels


def _different(settings: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the settings that do not have the same value everywhere, with their values."""
    names = dict.fromkeys(name for each in settings for name in each)
    columns = {name: [each.get(name) for each in settings] for name in names}
    return {name: values for name, values in columns.items() if len({_key(value) for value in values}) > 1}


def _differing(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return the settings, seeds and environments in which rows differ."""
    return _different(
        [
            row.settings
            | {
                "seeds": ", ".join(map(str, row.seeds)),
                "tasks learned": row.num_tasks,
                "supsup_jax": _joined(row, lambda about: (about.get("versions") or {}).get("supsup_jax")),
                "jax": _joined(row, lambda about: (about.get("versions") or {}).get("jax")),
                "devices": _joined(row, lambda about: _counted(about.get("devices"))),
                "cores": _joined(row, lambda about: about.get("cores")),
            }
            for row in rows
        ]
    )


def _joined(row: Row, of_settings: Callable[[dict[str, Any]], Any]) -> str | None:
    """Return the values that the runs of a row have in their `settings.yaml`."""
    values = dict.fromkeys(str(value) for run in row.runs if (value := of_settings(run.about)) is not None)
    return ", ".join(values) or None


def _counted(devices: Any) -> str | None:
    if not isinstance(devices, list) or not devices:
        return None
    return " + ".join(f"{number} x {device}" for device, number in Counter(map(str, devices)).items())


def _limits(rows: Sequence[Row], differing: dict[str, list[Any]], common: set[int]) -> list[str]:
    """Return sentences on what limits the comparison."""
    limits = []
    last = max(count for row in rows for run in row.runs for count in run.accuracies["given"])
    if not common:
        limits.append(
            "The methods were not evaluated after the same number of tasks: each is shown after its last "
            "evaluation, and the rows are not comparable."
        )
    elif last > max(common):
        limits.append(
            f"All methods are compared after {max(common)} tasks, the largest number after which each was evaluated; "
            f"some were evaluated after up to {last} tasks."
        )
    if "seeds" in differing:
        limits.append("The methods were run with different seeds, which also determine the tasks of some benchmarks.")
    if differing.keys() & {"devices", "cores"}:
        limits.append("The runs used different machines: their training times are not comparable.")
    if any(len(row.runs) == 1 for row in rows):
        limits.append("A value without ± is of a single seed.")
    return limits


def _title(tasks: dict[str, Any]) -> str:
    """Return the name of a benchmark: its family, its data set and the settings that it has besides."""
    others = {name: value for name, value in tasks.items() if name not in ("benchmark", "dataset") and value}
    name = f"{tasks.get('benchmark', 'Permuted')} {tasks.get('dataset', 'mnist')}"
    return ", ".join([name, *(f"{setting} {_shown(value)}" for setting, value in others.items())])


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _key(value: Any) -> str:
    """Return a string that is equal for equal plain data."""
    return json.dumps(value, sort_keys=True, default=str)
