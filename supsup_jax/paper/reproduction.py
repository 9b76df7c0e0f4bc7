"""Markdown tables of the paper's numbers beside those of runs on disk, completely generated."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from supsup_jax.paper import published
from supsup_jax.paper.agreement import agrees
from supsup_jax.paper.differences import explain
from supsup_jax.paper.keeping import portable_command
from supsup_jax.paper.published import Identity, Point
from supsup_jax.paper.scripts import expected_settings, other_settings
from supsup_jax.runs.records import total
from supsup_jax.runs.tables import Run, tries
from supsup_jax.system.durations import rounded

_HEADINGS = {
    "GG/splitimagenet": "SplitImageNet, 100 tasks: Figure 2 left",
    published.SPLITCIFAR100: "SplitCIFAR100, 20 tasks: Figure 2 right, which the paper has only as a figure",
    published.LENET_250: "MNISTPerm, 250 tasks, LeNet 300-100: Figure 3 left",
    published.FC_250: "MNISTPerm, 250 tasks, FC 1024-1024: Figure 3 right",
    published.LENET_2500: "MNISTPerm, 2,500 tasks, LeNet 300-100: Figure 4",
    "NNs": "MNISTPerm without boundaries, 2,500 tasks: Figure 4",
    "GNu/SplitMNIST": "HopSupSup, SplitMNIST: Section 3.5",
}

_COLUMNS_OF_RUNS = "here, %", "agrees", "here, MB", "seeds", "time of a run", "machine", "commit", "command"
_COLUMNS = "script", "tasks", "paper, %", "paper, MB", *_COLUMNS_OF_RUNS

_PREFACE = """\
# The paper's numbers, and numbers of runs of this package

Accuracy is the mean over the tasks learned. For SupSup, the task is inferred once per batch if the script infers it;
otherwise it is given. The upper bound is the mean of each task's accuracy right after it was learned. The lower bound,
from the same runs, is the mean accuracy after the last task was learned. ± is the standard deviation over seeds. The
paper's numbers are read off its figures, except where a number is marked as printed; ≈ is extrapolated from the slope
of a curve, < is an upper limit.

*agrees*: the difference is at most two standard errors plus the precision of the paper's number (0.05 points if read
off a figure, 1 point if extrapolated); with one seed and no error bar, at most 0.1 points or this precision. Runs with
settings other than their script's are not compared; their rows list these settings.

MB is the memory for all that is stored of the tasks, with masks as bits; the paper counts sparse masks. The time
includes training and all evaluations up to the number of tasks. Written by
`python -m supsup_jax reproduce RUNS... --output REPRODUCE.md`.
"""


class Number(NamedTuple):
    """A number of the paper, or a point of a curve that the paper does not have.

    Attributes:
        curve: name of the curve.
        er_scale: scale of the masks' densities, if rows differ in it.
        tasks: number of tasks learned.
        point: the paper's accuracy, if it has one.
        megabytes: the paper's megabytes, as text; empty if it has none.
    """

    curve: str
    er_scale: float | None
    tasks: int
    point: Point | None
    megabytes: str = ""

    @property
    def run(self) -> str:
        """Name of the experiment that measures it."""
        return published.measurement(self.curve).run

    @property
    def identity(self) -> Identity:
        """Kind of accuracy: with the task given or inferred, or right after learning."""
        return published.measurement(self.curve).identity

    def of_run(self, run: Run) -> float | None:
        """Return the accuracy of a run that corresponds to this number, in %; `None` if it was not measured."""
        identity = self.identity
        if identity == "inferred" and not run.accuracies["inferred"]:  # a run with --scenario GG
            identity = "given"
        return run.accuracy(identity, self.tasks)


def numbers() -> list[Number]:
    """List all accuracies that the paper publishes, in its order."""
    imagenet = [
        Number(published.SPLITIMAGENET + script, scale, 100, Point(accuracy, source="table"), f"{megabytes:.2f}")
        for (script, scale), (accuracy, megabytes) in published.SPLITIMAGENET_TABLE.items()
    ]
    points = [
        Number(curve, None, tasks, point)
        for curve, points in published.POINTS.items()
        for tasks, point in points.items()
    ]
    return imagenet + points


def table(runs: Iterable[Run]) -> str:
    """Return tables of the paper's numbers beside those of runs, with further rows for runs without a number.

    A run is used for every number of tasks after which it was evaluated. Of several runs with the same settings and
    seed, the newest is used.
    """
    of_name: dict[str, list[Run]] = defaultdict(list)
    for same in tries(runs):
        of_name[same[0].name] += same
    known = numbers()
    curves = dict.fromkeys(
        [number.curve for number in known] + [curve for run in sorted(of_name) for curve in published.curves_of(run)]
    )
    sections = {folder: _Section() for folder in _HEADINGS}
    for curve in curves:
        folder, name = curve.rpartition("/")[0], published.measurement(curve).run
        if folder in sections:
            of_paper = [number for number in known if number.curve == curve]
            sections[folder].add(curve, of_paper, of_name.get(name, []))
            if curve in of_name and curve != name:
                sections[folder].retired.append(curve)
    return _PREFACE + "".join(f"\n## {heading}\n\n{sections[folder].text()}" for folder, heading in _HEADINGS.items())


class _Section:
    """The rows of a table, and the list of differences below it.

    Attributes:
        rows: the cells of each row.
        differing: numbers of tasks at which a curve differs from the paper, by its script and explanation.
        retired: experiments whose runs are excluded, because version 0.1 trained them differently.
    """

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.differing: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.retired: list[str] = []

    def add(self, curve: str, of_paper: Sequence[Number], runs: Sequence[Run]) -> None:
        """Add the rows of a curve: the paper's numbers, and the runs for which the paper has none."""
        expected = expected_settings(published.measurement(curve).run, runs)
        others = {run.folder: other_settings(run, expected) for run in runs}
        further = _without_paper(curve, runs, of_paper)
        for number in sorted([*of_paper, *further], key=lambda number: (-(number.er_scale or 0), number.tasks)):
            groups: dict[str, dict[int, Run]] = {"": {}} if number.point else {}
            for run in runs:
                if run.er_scale == number.er_scale and number.of_run(run) is not None:
                    of_seed = groups.setdefault(_flags(others[run.folder]), {})
                    of_seed.setdefault(run.seed, run)  # runs are sorted from the newest to the oldest
            for flags, of_seed in sorted(groups.items()):
                self._add_row(number, flags, list(of_seed.values()))

    def _add_row(self, number: Number, flags: str, runs: Sequence[Run]) -> None:
        sparsity = f"--sparsity {number.er_scale:g}" if number.er_scale else ""
        script = " ".join(f"`{part}`" for part in (number.curve.rpartition("/")[2], sparsity, flags) if part)
        start = [script, f"{number.tasks:,}", _of_paper(number.point), number.megabytes]
        if not runs:
            self.rows.append([*start, "not run", *[""] * (len(_COLUMNS_OF_RUNS) - 1)])
            return
        values = [value for run in runs if (value := number.of_run(run)) is not None]
        verdict = ""
        if number.point and not flags:
            verdict = "yes"
            if not agrees(values, number.point):
                verdict = f"**differs by {fmean(values) - number.point.accuracy:+.2f}**"
                self.differing[script, explain(number.curve, number.tasks)].append(number.tasks)
        self.rows.append([*start, *_measured(number.tasks, values, runs, verdict)])

    def text(self) -> str:
        """Return the table and the list below it."""
        lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *map(_line, self.rows)]
        if self.differing:
            lines += ["", "Differences from the paper:", ""]
        for (script, sentence), counts in self.differing.items():
            lines.append(f"- {script} after {', '.join(f'{count:,}' for count in counts)} tasks: {sentence}")
        if self.retired:
            names = ", ".join(f"`{name}`" for name in self.retired)
            lines += ["", f"Excluded, because version 0.1 trained the bounds differently: runs of {names}."]
        return "\n".join(lines) + "\n"


def _without_paper(curve: str, runs: Sequence[Run], of_paper: Sequence[Number]) -> list[Number]:
    """Return the last evaluations of runs, without the points that the paper has."""
    known = {(number.er_scale, number.tasks) for number in of_paper}
    last = {(run.er_scale, max(run.accuracies["given"])) for run in runs if run.accuracies["given"]}
    return [Number(curve, scale, tasks, None) for scale, tasks in sorted(last - known, key=str)]


def _of_paper(point: Point | None) -> str:
    """Format a number of the paper."""
    if point is None:
        return ""
    return f"{point}, printed" if point.source in ("text", "table") else str(point)


def _flags(settings: Mapping[str, Any]) -> str:
    """Format settings as flags."""
    words = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag} {value}")
    return " ".join(words)


def _measured(tasks: int, values: Sequence[float], runs: Sequence[Run], verdict: str) -> list[str]:
    deviation = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    seconds = [run.timing.until[tasks] for run in runs if tasks in run.timing.until]
    sizes = [total(run.storage[tasks]) / 1e6 for run in runs if run.storage.get(tasks)]
    seeds = ", ".join(map(str, sorted(run.seed for run in runs)))
    return [
        f"{fmean(values):.2f}{deviation}",
        verdict,
        f"{fmean(sizes):.2f}" if sizes else "",
        seeds if len(runs) == 1 else f"{len(runs)}: {seeds}",
        rounded(fmean(seconds)) if seconds else "",
        *(
            "; ".join(dict.fromkeys(filter(None, (describe(run.about) for run in runs))))
            for describe in (_machine, _commit, _command)
        ),
    ]


def _machine(about: dict[str, Any]) -> str:
    kinds = about.get("devices") or []
    on_gpu = [kind for kind in dict.fromkeys(kinds) if kind != "cpu"]
    cores = about.get("cores", len(kinds))
    where = [f"{kinds.count(kind)} {kind}" for kind in on_gpu] or [f"CPU, {cores} core{'' if cores == 1 else 's'}"]
    version = (about.get("versions") or {}).get("jax")
    return ", ".join(where + ([f"JAX {version}"] if version else []))


def _commit(about: dict[str, Any]) -> str:
    commit, *changed = str(about.get("git_commit") or "").split(" ", 1)
    return commit[:10] + " (changed)" * bool(changed)


def _command(about: dict[str, Any]) -> str:
    words = portable_command(about)
    return f"`{' '.join(['python', words[0], '--data ~/data', *words[1:]])}`" if words else ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
