"""The paper's numbers beside those of runs on disk, as Markdown: nothing in it is written by hand."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from supsup_jax import published
from supsup_jax.storage import total
from supsup_jax.tables import Run, tries

_HEADINGS = {
    "GG/splitimagenet": "SplitImageNet, 100 tasks: Figure 3 left",
    published.SPLITCIFAR100: "SplitCIFAR100, 20 tasks: Figure 3 right, whose curves the paper has as a picture only",
    published.LENET_250: "MNISTPerm, 250 tasks, LeNet 300-100: Figure 4 left",
    published.FC_250: "MNISTPerm, 250 tasks, FC 1024-1024: Figure 4 right",
    published.LENET_2500: "MNISTPerm, 2,500 tasks, LeNet 300-100: Figure 5",
    "NNs": "MNISTPerm without boundaries, 2,500 tasks: Figure 5",
    "GNu/SplitMNIST": "HopSupSup, SplitMNIST: Section 3.5",
}

_OF_RUNS = "here, %", "here, MB", "seeds", "time of a run", "machine", "commit", "command"
_COLUMNS = "script", "tasks", "paper, %", "paper, MB", *_OF_RUNS

_OWN_PLACES = ("--data", "--log-dir")


class Number(NamedTuple):
    """A number of the paper.

    Attributes:
        name: the experiment's.
        er_scale: scale of its densities, where that tells rows apart.
        tasks: how many were learned.
        accuracy: as it stands there, in %; nothing where the paper has none.
        megabytes: that have to be kept, likewise.
    """

    name: str
    er_scale: float | None
    tasks: int
    accuracy: str
    megabytes: str = ""


def numbers() -> list[Number]:
    """All accuracies that the paper publishes, in its order."""
    imagenet = [
        Number(published.SPLITIMAGENET + script, scale, 100, f"{accuracy:.2f}", f"{megabytes:.2f}")
        for (script, scale), (accuracy, megabytes) in published.SPLITIMAGENET_TABLE.items()
    ]
    points = []
    for name, accuracies in (published.IN_TEXT | published.ACCURACIES | published.MEMORY).items():
        for tasks, accuracy in accuracies.items():
            deviation = published.DEVIATIONS.get((name, tasks))
            said = f"{accuracy:.2f}" + (f" ± {deviation:.2f}" if deviation else "")
            points.append(Number(name, None, tasks, said))
        for (below, tasks), accuracy in published.BELOW.items():
            if below == name:
                points.append(Number(name, None, tasks, f"< {accuracy:g}"))
    return imagenet + points


def table(runs: Iterable[Run]) -> str:
    """The paper's numbers beside those of runs, and runs of the same scripts for which it has none.

    A run counts for every number of tasks after which it was evaluated. Of the same settings and seed it is the newest.
    """
    of_name: dict[str, list[Run]] = defaultdict(list)
    for same in tries(runs):
        for run in same:
            of_name[run.name].append(run)
    rows: dict[str, list[list[str]]] = {folder: [] for folder in _HEADINGS}
    known = numbers()
    for name in dict.fromkeys([number.name for number in known] + sorted(of_name)):
        if (folder := name.rpartition("/")[0]) not in rows:
            continue
        said = [number for number in known if number.name == name]
        said += _without_paper(name, of_name[name], {number.tasks for number in said})
        for number in sorted(said, key=lambda number: (-(number.er_scale or 0), number.tasks)):
            rows[folder] += _rows(number, of_name[name])
    lines = [
        "# The numbers of the paper, and of the runs here",
        "",
        "Mean accuracy over the tasks learned; for SupSup with the task inferred, once a batch, where the script",
        "infers it, and else given. ± is the standard deviation over seeds. MB is what has to be kept of the tasks,",
        "masks as bits; the paper's are of sparse masks. The time is that of training and evaluations until then.",
        "Written by `python -m supsup_jax reproduce RUNS... --output REPRODUCE.md`.",
    ]
    for folder, heading in _HEADINGS.items():
        lines += ["", f"## {heading}", "", _line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *map(_line, rows[folder])]
    return "\n".join(lines) + "\n"


def _without_paper(name: str, runs: Sequence[Run], known: set[int]) -> list[Number]:
    """The last evaluations of runs for which the paper has no number."""
    last = {(run.er_scale, max(run.accuracies["given"])) for run in runs}
    in_table = name.startswith(published.SPLITIMAGENET)  # whose rows the scale tells apart
    others = {(scale if in_table else None, tasks) for scale, tasks in last if tasks not in known}
    return [Number(name, scale, tasks, "") for scale, tasks in sorted(others, key=str)]


def _rows(number: Number, runs: Sequence[Run]) -> list[list[str]]:
    """A row for each of the settings with which there are runs, or one that says that there are none."""
    same_settings: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        fits = number.er_scale is None or run.er_scale == number.er_scale
        if fits and number.tasks in run.accuracies[_identity(run)]:
            same_settings[_settings(run)].setdefault(run.seed, run)  # the newest comes first
    script = number.name.rpartition("/")[2]
    script = f"`{script}`" + (f" `--sparsity {number.er_scale:g}`" if number.er_scale else "")
    start = [script, f"{number.tasks:,}", number.accuracy, number.megabytes]
    if not same_settings:
        return [[*start, "not run", *[""] * (len(_OF_RUNS) - 1)]]
    return [[*start, *_measured(number.tasks, list(of_seed.values()))] for of_seed in same_settings.values()]


def _measured(tasks: int, runs: Sequence[Run]) -> list[str]:
    values = [run.accuracies[_identity(run)][tasks] for run in runs]
    deviation = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    seconds = [run.seconds[tasks] for run in runs if tasks in run.seconds]
    sizes = [total(run.storage[tasks]) / 1e6 for run in runs if run.storage.get(tasks)]
    return [
        f"{fmean(values):.2f}{deviation}",
        f"{fmean(sizes):.2f}" if sizes else "",
        str(runs[0].seed)
        if len(runs) == 1
        else f"{len(runs)}: {', '.join(map(str, sorted(run.seed for run in runs)))}",
        _duration(fmean(seconds)) if seconds else "",
        *(
            "; ".join(dict.fromkeys(filter(None, (said(run.about) for run in runs))))
            for said in (_machine, _commit, _command)
        ),
    ]


def _identity(run: Run) -> str:
    """Whether the paper's number of an experiment is with tasks given or inferred."""
    infers = run.experiment.get("scenario", "GNu") != "GG" and bool(run.accuracies["inferred"])
    masked = run.experiment.get("method", "SupSup") in ("SupSup", "HopSupSup")
    return "inferred" if infers and masked else "given"


def _settings(run: Run) -> str:
    """What has to be the same in runs of which a mean is taken."""
    varied = "seed", "num_tasks", "eval_at", "first_task"
    return repr(sorted((name, value) for name, value in run.experiment.items() if name not in varied))


def _machine(about: dict[str, Any]) -> str:
    kinds = about.get("devices") or []
    on_gpu = [kind for kind in dict.fromkeys(kinds) if kind != "cpu"]
    where = [f"{kinds.count(kind)} {kind}" for kind in on_gpu] or [f"CPU, {about.get('cores', len(kinds))} cores"]
    version = about.get("versions", {}).get("jax")
    return ", ".join(where + ([f"JAX {version}"] if version else []))


def _commit(about: dict[str, Any]) -> str:
    commit, *changed = str(about.get("git_commit") or "").split(" ", 1)
    return commit[:10] + " (changed)" * bool(changed)


def _command(about: dict[str, Any]) -> str:
    """How the run was called, wherever its data and results lay."""
    words = [str(word) for word in about.get("command") or []]
    kept = []
    for position, word in enumerate(words):
        before = words[position - 1] if position else ""
        if word not in _OWN_PLACES and before not in _OWN_PLACES and word != "--resume":
            kept.append(word)
    if not kept:
        return ""
    script = re.sub(r".*(?=experiments/)", "", kept[0].replace(os.sep, "/"))
    return f"`{' '.join(['python', script, '--data ~/data', *kept[1:]])}`"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
