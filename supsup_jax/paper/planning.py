"""The plan of a reproduction: the missing runs, their expected time, and a selection that fits a time budget.

Training takes the same time for every task. The time of an evaluation after n tasks is proportional to n if the task is
given; inferring the tasks of n test sets among n masks adds a term proportional to n².
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.paper.reproduction import Number, numbers
from supsup_jax.paper.scripts import Script, other_settings
from supsup_jax.runs import composition, results, reuse
from supsup_jax.runs.tables import Run
from supsup_jax.system.durations import duration

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_budget(text: str) -> float:
    """Return the seconds of a time such as `8h`, `45m` or `90s`.

    Raises:
        UserError: if the text is not such a time, or zero.
    """
    parts = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([hms])", text)
    seconds = float(parts[1]) * _UNITS[parts[2]] if parts else 0.0
    if not seconds:
        raise UserError(f"--budget {text}: must be a time such as 8h, 45m or 90s")
    return seconds


class Rates(NamedTuple):
    """Durations of the parts of a run, in seconds.

    Attributes:
        task: training one task.
        given: evaluating one task with the task given.
        pair: inferring the task, for each pair of a task and a mask in an evaluation.
    """

    task: float
    given: float
    pair: float

    def evaluation(self, tasks: int) -> float:
        """Return the seconds of an evaluation after this number of tasks."""
        return self.given * tasks + self.pair * tasks**2


def measured_rates(runs: Iterable[Run], guess: Callable[[], Rates]) -> Rates | None:
    """Return the rates of runs of one kind; `None` if they have learned no task, or were never evaluated.

    Args:
        runs: runs of one kind on one machine.
        guess: returns estimated rates, whose ratio of `given` to `pair` is used if all evaluations are after the same
            number of tasks, so that the ratio cannot be measured.
    """
    of_kind = list(runs)
    tasks = sum(run.timing.tasks for run in of_kind)
    points = [point for run in of_kind for point in run.timing.evaluations.items()]
    if not tasks or not points:
        return None
    task = sum(run.timing.training for run in of_kind) / tasks
    if not any(run.accuracies["inferred"] for run in of_kind):
        return Rates(task, fmean(seconds / n for n, seconds in points), 0.0)
    if len({n for n, _ in points}) > 1:
        return Rates(task, *_fit(points))
    length, seconds = points[0][0], fmean(seconds for _, seconds in points)
    expected = guess()
    if not (whole := expected.evaluation(length)):
        return Rates(task, 0.0, seconds / length**2)
    return Rates(task, seconds * expected.given / whole, seconds * expected.pair / whole)


def _fit(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Fit non-negative a and b in seconds = a n + b n² to pairs (n, seconds) with at least two different n."""
    each = [(n, seconds / n) for n, seconds in points]
    mean, middle = fmean(value for _, value in each), fmean(n for n, _ in each)
    spread = sum((n - middle) ** 2 for n, _ in each)
    slope = max(0.0, sum((n - middle) * (value - mean) for n, value in each) / spread)
    if mean - slope * middle < 0:
        return 0.0, fmean(value / n for n, value in each)
    return mean - slope * middle, slope


@dataclass(frozen=True)
class Job:
    """A run to start or resume.

    Attributes:
        script: path of the script that runs it.
        experiment: the script's experiment with the run's seed, scale of densities and number of tasks.
        counts: numbers of learned tasks at which accuracies of the paper are missing.
        learned: number of tasks that an earlier run has learned.
        evaluated: numbers of tasks after which the earlier run was evaluated.
        rates: durations of the parts of the run.
        learned_in: folder of a different run that has learned these tasks in the same way, if there is no earlier run.
    """

    script: Path
    experiment: Experiment
    counts: tuple[int, ...]
    learned: int
    evaluated: frozenset[int]
    rates: Rates
    learned_in: Path | None = None

    @property
    def key(self) -> tuple[str, float | None, int]:
        """Name, scale of densities and seed; jobs with equal keys use the same folder."""
        return self.experiment.name, composition.settings_of(self.experiment).get("er_scale"), self.experiment.seed

    @property
    def title(self) -> str:
        """Experiment, scale of densities and seed, as text."""
        name, scale, seed = self.key
        return f"{name}{f' --sparsity {scale:g}' if scale else ''}, seed {seed}"

    @property
    def seconds(self) -> float:
        """Expected seconds of the remaining training and evaluations."""
        due = [count for count in self.experiment.evaluations if count not in self.evaluated]
        training = self.rates.task * max(0, self.experiment.num_tasks - self.learned)
        return training + sum(map(self.rates.evaluation, due))

    def shortened(self, tasks: int) -> "Job":
        """Return the job with this number of tasks."""
        counts = tuple(count for count in self.counts if count <= tasks)
        return dataclasses.replace(
            self, experiment=composition.changed(self.experiment, num_tasks=tasks), counts=counts
        )

    def alone(self) -> "Job":
        """Return the job without tasks of a different run."""
        return dataclasses.replace(self, learned_in=None, learned=0)


class Plan(NamedTuple):
    """Runs to make, in order.

    Attributes:
        jobs: the runs, from the shortest to the longest.
        left_out: a line with the reason for each run or number that is skipped or shortened.
    """

    jobs: list[Job]
    left_out: list[str]

    @property
    def seconds(self) -> float:
        """Expected seconds of all runs."""
        return sum(job.seconds for job in self.jobs)


def select(only: Sequence[str]) -> list[Number]:
    """Return the numbers of the paper whose experiments or folders of experiments are named; all if `only` is empty.

    Raises:
        UserError: if a name does not match.
    """
    known = numbers()
    chosen: set[Number] = set()
    for name in only:
        start = name.removeprefix("experiments/").removesuffix(".py").rstrip("/")
        found = {
            number
            for number in known
            if any(label == start or label.startswith(f"{start}/") for label in (number.curve, number.run))
        }
        if not found:
            folders = ", ".join(dict.fromkeys(number.curve.rpartition("/")[0] for number in known))
            raise UserError(f"--only {name}: the paper has no such results; give scripts, or folders such as {folders}")
        chosen |= found
    return [number for number in known if not only or number in chosen]


def missing(
    wanted: Sequence[Number],
    runs: Iterable[Run],
    script_of: Callable[[str], Script | None],
    rates_of: Callable[[Experiment], Rates],
    seeds: Sequence[int] | None = None,
    has_data: Callable[[str], bool] = lambda _: True,
) -> Plan:
    """Return the runs that are missing for the paper's numbers, and the reasons for skipped ones.

    A number is measured if a run with the settings of its script was evaluated after its number of tasks. Runs with
    other settings are ignored.

    Args:
        wanted: numbers of the paper.
        runs: existing runs.
        script_of: returns the script of an experiment.
        rates_of: returns the durations of the parts of a run.
        seeds: seeds to run for each number; by default one run with any seed is enough.
        has_data: returns whether a data set is on disk.
    """
    existing = list(runs)
    of_name: dict[str, list[Run]] = defaultdict(list)
    for run in existing:
        of_name[run.name].append(run)
    groups: dict[tuple[str, float | None], list[Number]] = defaultdict(list)
    for number in wanted:
        groups[number.run, number.er_scale].append(number)
    jobs, left_out = [], []
    for (name, scale), of_group in groups.items():
        script = script_of(name)
        if script is None:
            left_out.append(f"{name}: there is no script")
            continue
        expected = composition.plain(script.experiment)
        same = [run for run in of_name[name] if run.er_scale == scale and not other_settings(run, expected)]
        experiment = composition.changed(script.experiment, er_scale=scale)
        for chosen, of_seed in _by_seed(same, experiment.seed, seeds).items():
            lacking = {number for number in of_group if all(number.of_run(run) is None for run in of_seed)}
            within = {number for number in lacking if _reaches(number, experiment)}
            if beyond := sorted(number.tasks for number in lacking - within):
                left_out.append(f"{name} after {', '.join(map(str, beyond))} tasks: its script does not evaluate there")
            if not within:
                continue
            of_chosen = dataclasses.replace(experiment, seed=chosen)
            job = _job(script.path, of_chosen, within, of_seed, existing, rates_of=rates_of, has_data=has_data)
            if isinstance(job, Job):
                jobs.append(job)
            else:
                left_out.append(job)
    return Plan(sorted(jobs, key=lambda job: job.seconds), left_out)


def _by_seed(runs: Sequence[Run], default: int, seeds: Sequence[int] | None) -> Mapping[int, list[Run]]:
    """Group runs by the required seeds. If any seed is enough: all runs, under the seed of the longest run."""
    if seeds is None:
        longest = max(runs, key=lambda run: run.timing.tasks, default=None)
        return {longest.seed if longest else default: list(runs)}
    return {seed: [run for run in runs if run.seed == seed] for seed in seeds}


def _learning_the_same(runs: Iterable[Run], experiment: Experiment) -> list[Run]:
    """Return the runs of other experiments that learn the tasks of an experiment in the same way."""
    if not reuse.is_possible(experiment):
        return []
    others = (run for run in runs if run.name != experiment.name and run.seed == experiment.seed)
    return [run for run in others if not reuse.differences(experiment, run.experiment)]


def _reaches(number: Number, experiment: Experiment) -> bool:
    """Return whether a complete run of an experiment measures a number."""
    if number.identity == "learned":
        return number.tasks <= experiment.num_tasks
    return number.tasks in experiment.evaluations


def _job(
    script: Path,
    experiment: Experiment,
    lacking: Collection[Number],
    runs: Sequence[Run],
    existing: Sequence[Run],
    *,
    rates_of: Callable[[Experiment], Rates],
    has_data: Callable[[str], bool],
) -> Job | str:
    """Return the run that measures these numbers, or the reason why it cannot be made.

    Args:
        script: path of the script.
        experiment: its experiment with the run's seed.
        lacking: the numbers.
        runs: runs of the experiment with the script's settings.
        existing: all runs.
        rates_of: see `missing`.
        has_data: see `missing`.
    """
    counts = tuple(sorted({number.tasks for number in lacking}))
    job = Job(script, experiment, counts, 0, frozenset(), Rates(0, 0, 0))
    if earlier := _longest(run for run in runs if run.seed == experiment.seed):
        job = dataclasses.replace(job, learned=earlier.timing.tasks, evaluated=frozenset(earlier.accuracies["given"]))
    elif other := _longest(_learning_the_same(existing, experiment)):
        job = dataclasses.replace(job, learned=other.timing.tasks, learned_in=other.folder)
    if not has_data(experiment.tasks.source.name):
        return f"{job.title}: the data set {experiment.tasks.source.name} is not in the data folder"
    return dataclasses.replace(job, rates=rates_of(experiment)).shortened(counts[-1])


def _longest(runs: Iterable[Run]) -> Run | None:
    """Return the run with most tasks among the runs that have checkpoints."""
    with_checkpoints = (run for run in runs if results.has_checkpoints(run.folder))
    return max(with_checkpoints, key=lambda run: run.timing.tasks, default=None)


def fit(plan: Plan, budget: float = math.inf) -> Plan:
    """Reduce a plan to the runs that fit a time budget.

    A run that takes too long is shortened to the largest of its numbers of tasks that fits, or skipped.

    Args:
        plan: all missing runs.
        budget: time budget in seconds.
    """
    jobs, left_out = [], list(plan.left_out)
    for job in plan.jobs:
        remaining = budget - sum(other.seconds for other in jobs)
        fitting = (short for tasks in reversed(job.counts) if (short := job.shortened(tasks)).seconds <= remaining)
        chosen = next(fitting, None)
        if chosen:
            jobs.append(chosen)
        if chosen != job:
            instead = (
                f"only {chosen.experiment.num_tasks} of {job.experiment.num_tasks} tasks" if chosen else "left out"
            )
            left_out.append(f"{job.title}: {instead}, since it takes about {duration(job.seconds)} in full")
    return Plan(jobs, left_out)


def kind(experiment: Experiment | Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the settings that determine the durations of the parts of a run."""
    settings = (
        composition.plain(experiment) if isinstance(experiment, Experiment) else composition.normalised(experiment)
    )
    names = (
        "dataset",
        "benchmark",
        "network",
        "width",
        "method",
        "scenario",
        "steps",
        "epochs",
        "batch_size",
        "search",
    )
    return tuple(settings.get(name) for name in names)
