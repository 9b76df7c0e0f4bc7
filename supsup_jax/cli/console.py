"""Console output: progress of runs and sweeps, and tables of results."""

import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from supsup_jax.cli import advice
from supsup_jax.cli.sweep import LOG, Member
from supsup_jax.methods.supsup import SPARSE
from supsup_jax.paper.imagenet import ImageNetRow
from supsup_jax.runs.evaluate import RunEvaluation
from supsup_jax.runs.records import (
    EvaluationResult,
    check_of,
    compared_of,
    error_of_mean,
    metrics_of,
    sample_in_words,
    total,
    total_of_paper,
)
from supsup_jax.runs.run import Run
from supsup_jax.runs.tables import Run as MeasuredRun
from supsup_jax.scenarios.work import Report
from supsup_jax.system.durations import duration

# Lines of the log that are printed for a failed run.
_LAST_LINES = 20

# Format of the lines that a `Reporter` prints without a terminal.
_REPORT = re.compile(r"(?P<tasks>\d+/\d+) tasks: (?P<message>.*)")


class Reporter:
    """Progress of a run: a bar with rate and remaining time on a terminal, plain lines elsewhere.

    Args:
        title: name of the run.
        farewell: message to print when the run is stopped, for example how to resume it.
    """

    def __init__(self, title: str, farewell: str):
        self._title, self._farewell = title, farewell
        self._console = Console()
        self._started = time.monotonic()
        self._first: int | None = None
        self._rate = 0.0
        self._current = " (starting)"
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("tasks"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rate]}"),
            console=self._console,
        )
        self._id = self._bar.add_task(title, total=None, rate="")

    def __enter__(self) -> "Reporter":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, step: Report) -> None:
        """Show a report of the run."""
        if self._first is None:  # the first tasks of a resumed run took no time
            self._first, self._started = step.tasks, time.monotonic()
        self._rate = step.steps_per_second or self._rate
        self._current = "" if step.is_done else f" ({step.message})"
        digits = 0 if self._rate >= 10 else 2  # a step of ResNet-50 may take seconds
        rate = f"{self._rate:,.{digits}f} steps/s{self._remaining(step)}" if self._rate else ""
        if self._console.is_terminal:
            description = f"{self._title}: {step.message}"
            self._bar.update(self._id, completed=step.tasks, total=step.of, description=description, rate=rate)
        else:
            line = f"{self._title} {step.tasks}/{step.of} tasks: {step.message}"
            print(line + (f" ({rate})" if rate else ""), flush=True)

    def announce(self, seconds: float) -> None:
        """Print that an interrupted run finishes and saves its current tasks first, if that takes at most `seconds`."""
        self._console.print(
            f"{self._title}: interrupted{self._current}; the current tasks are finished and saved first"
            f"{_within(seconds)}; press Ctrl-C again to stop at once",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def give_up(self) -> None:
        """Restore the terminal, and print the farewell."""
        self.__exit__()
        print(f"interrupted; {self._farewell}", file=sys.stderr, flush=True)

    def _remaining(self, step: Report) -> str:
        learned = step.tasks - (self._first or 0)
        if not learned or step.tasks == step.of:
            return ""
        seconds = (time.monotonic() - self._started) / learned * (step.of - step.tasks)
        return f", about {duration(seconds)} left"


class SweepTable:
    """Progress of a sweep: a live table on a terminal, elsewhere a line whenever a run has advanced.

    Args:
        title: name of the sweep.
        interrupted: message to print on interruption; `{within}` is replaced by the time limit, if there is one.
    """

    def __init__(self, title: str, interrupted: str):
        self._title, self._interrupted = title, interrupted
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)
        self._printed: dict[Member, tuple[str, str]] = {}

    def __enter__(self) -> "SweepTable":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, members: Sequence[Member]) -> None:
        """Show the states of the runs."""
        if self._console.is_terminal:
            self._live.update(self._table(members), refresh=True)
            return
        for member in members:
            tasks, message = _progress(member)
            progress = _state(member), tasks
            if self._printed.get(member) != progress:
                self._printed[member] = progress
                parts = _state(member), tasks and f"{tasks} tasks", message
                print(f"{member.folder.name} {': '.join(filter(None, parts))}", flush=True)

    def announce(self, seconds: float) -> None:
        """Print that the sweep was interrupted, and that its runs have `seconds` to save."""
        self._console.print(
            self._interrupted.format(within=_within(seconds)), highlight=False, markup=False, soft_wrap=True
        )

    def _table(self, members: Sequence[Member]) -> Table:
        table = Table(title=escape(self._title), title_style="", title_justify="left")
        for name in ("run", "state", "tasks"):
            table.add_column(name, no_wrap=True)
        table.add_column("message")  # the only column that is truncated on a narrow terminal
        table.add_column("time", justify="right", no_wrap=True)
        for member in members:
            tasks, message = _progress(member)
            seconds = "" if member.seconds is None else duration(member.seconds)
            text = Text(message, no_wrap=True, overflow="ellipsis")
            table.add_row(member.folder.name, _state(member), tasks, text, seconds)
        return table


def show_failures(members: Sequence[Member]) -> None:
    """Print the last lines of the log of each failed run."""
    for member in members:
        if member.state == "failed":
            print(f"{member.folder.name} failed; the end of {member.folder / LOG}:")
            for line in member.last_lines()[-_LAST_LINES:] or ["(the log is empty)"]:
                print(f"    {line}")


def _state(member: Member) -> str:
    return f"{member.state} {member.where}".strip() if member.state in ("waiting", "running") else member.state


def _progress(member: Member) -> tuple[str, str]:
    """Return learned and all tasks of a run, such as "3/10" (empty if its log has no report), and its last message."""
    if member.state == "finished":
        return f"{member.evaluations[-1]}/{member.evaluations[-1]}", ""
    lines = member.last_lines() if member.state != "waiting" else []
    reports = [report for line in lines if (report := _REPORT.search(line))]
    last = reports[-1]["message"] if reports and reports[-1].string == lines[-1] else "".join(lines[-1:])
    return reports[-1]["tasks"] if reports else "", last


def show_results(run: Run, images_per_task: int) -> None:
    """Print the table of a run's evaluations, then the paths of its files.

    Args:
        run: a finished run.
        images_per_task: number of test images per task whose task was inferred image by image.
    """
    folder = run.folder
    assert folder is not None
    results = sorted(run.record.evaluations, key=lambda result: result.num_tasks)
    inferred = any(result.inferred is not None for result in results)
    columns: dict[str, Callable[[EvaluationResult], str]] = {
        "tasks\nlearned": lambda result: str(result.num_tasks),
        "accuracy,\ntask given": lambda result: _percent(result.given),
    }
    if run.method.trains_weights(1):
        columns["right after\nlearning"] = lambda result: _percent(
            [task.accuracy for task in run.record.tasks[: result.num_tasks]]
        )
    if inferred:
        columns |= {
            "accuracy,\ninferred": lambda result: _percent(result.inferred, result.inferred_error),
            "inference\ncorrect": lambda result: _percent(result.picked),
        }
    if any(result.inferred_per_image is not None for result in results):
        columns |= {
            "inferred\nper image": lambda result: _percent(result.inferred_per_image, result.inferred_per_image_error),
            "correct\nper image": lambda result: _percent(result.picked_per_image),
        }
    if any(check_of(result.checked, result.differing) for result in results):
        columns["differ from\nexact search"] = lambda result: check_of(result.checked, result.differing) or ""
    kind = "inferred" if inferred else "given"

    def metric(name: str) -> Callable[[EvaluationResult], str]:
        return lambda result: _percent(getattr(metrics_of(run.record, result.num_tasks)[kind], name))

    columns |= {
        "for-\ngetting": metric("forgetting"),
        "backward\ntransfer": metric("backward_transfer"),
        "time\nto train": lambda result: duration(result.training_seconds),
        "time\nto eval.": lambda result: duration(result.seconds),
        "bytes\nkept": lambda result: f"{total(result.storage):,}",
    }
    _print_table(f"{folder}: accuracies in %", columns, results)
    if discovered := [result for result in results if result.discovery]:
        discovery_columns: dict[str, Callable[[EvaluationResult], str]] = {
            "tasks\nlearned": lambda result: str(result.num_tasks),
            "masks": lambda result: str((result.discovery or {})["masks"]),
            "tasks with\nexactly one mask": lambda result: _percent((result.discovery or {})["one_mask"]),
            "\npurity": lambda result: _percent((result.discovery or {})["purity"]),
            "\ncompleteness": lambda result: _percent((result.discovery or {})["completeness"]),
        }
        _print_table("discovered masks, in %", discovery_columns, discovered)
    last = results[-1]
    if last.picked and last.inferred and (line := advice.on_inference(run, last.picked, last.inferred, last.given)):
        print(line)
    if last.picked_per_image:
        print(f"per image: the task is inferred for each of {images_per_task} test images per task")
    if sample := sample_in_words(last.sampled):
        print(f"with the task inferred: {sample}, drawn by seed and task, ± standard error")
    compared = compared_of(run.record, results[-1].num_tasks)[kind]
    over = f", in the last row over the {compared} tasks evaluated before" if compared else ""
    print(
        f"forgetting and backward transfer: with the task {kind}, in percentage points{over}; files: "
        "accuracy_matrix.csv, metrics.csv"
    )
    for path in (
        folder.parent / "results.csv",
        *sorted(folder.glob("*.csv")),
        *(folder / name for name in ("metrics.jsonl", "settings.yaml")),
        *sorted(folder.glob("events.out.tfevents.*")),
        folder / "checkpoints",
        *sorted(folder.glob("*.png")),
    ):
        print(path)


def show_densities(densities: dict[str, float]) -> None:
    """Print the density of each layer's masks, in %."""
    table = Table("layer", title="density of the masks, in %", title_style="", title_justify="left")
    table.add_column("density", justify="right")
    for layer, density in densities.items():
        table.add_row(layer, f"{100 * density:.2f}")
    Console().print(table)


def show_storage(run: MeasuredRun) -> None:
    """Print the bytes that a run has to keep for the tasks of its last evaluation."""
    num_tasks = max(run.storage)
    account = run.storage[num_tasks]
    table = Table(title=f"{run.folder}: bytes kept for {num_tasks} tasks", title_style="", title_justify="left")
    table.add_column("part")
    table.add_column("bytes", justify="right")
    for part, size in account.items():
        if part != SPARSE:
            table.add_row(part, f"{size:,}")
    table.add_section()
    table.add_row("all", f"{total(account):,}")
    if SPARSE in account:
        table.add_row(f"{SPARSE}: two bytes per kept weight, as in the paper", f"{account[SPARSE]:,}")
        table.add_row("all, with sparse masks", f"{total_of_paper(account):,}")
    _wide_console(100).print(table)


def _wide_console(width: int) -> Console:
    """Return a console of at least this width, so that tables are not truncated in log files."""
    console = Console()
    console.width = max(console.width, width)
    return console


def show_evaluation(folder: Path, task: str, measured: RunEvaluation) -> None:
    """Print the accuracy of every task, and the mean."""
    inferred = measured.picked is not None
    columns = ["task", "accuracy", *(["per image", "inference correct"] if inferred else [])]
    values = [measured.accuracy, *([measured.accuracy_per_image, measured.picked] if inferred else [])]
    errors = [measured.accuracy_error, measured.accuracy_per_image_error, None][: len(values)]

    def cells(rows: slice) -> list[str]:
        columns: Any = zip(values, errors, strict=True)
        return [_percent(value[rows], None if error is None else error[rows]) for value, error in columns]

    sample = f", {words}: ± standard error" if (words := measured.sample) else ""
    table = Table(title=f"{folder}: accuracy in %, the task {task}{sample}", title_style="", title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    for row, number in enumerate(measured.tasks.tolist()):
        table.add_row(str(number), *cells(slice(row, row + 1)))
    table.add_section()
    table.add_row("mean", *cells(slice(None)))
    _wide_console(100).print(table)
    if check := check_of(measured.checked, measured.differing):
        print(f"{check} checked picks differ from the exact search")


def show_run(plain: dict[str, Any]) -> None:
    """Print the summary of a run."""
    table = Table(title=f"{plain['run']}: {plain['name']}", title_style="", title_justify="left", show_header=False)
    table.add_column("property")
    table.add_column("value")
    from_python = f", {plain['own_tasks']} of them from Python" if plain["own_tasks"] else ""
    shape = " x ".join(map(str, plain["inputs"]["image_shape"]))
    table.add_row("method", f"{plain['method']}, scenario {plain['scenario']}, seed {plain['seed']}")
    table.add_row("network", f"{plain['network']}: {shape} to {plain['outputs']} outputs, {plain['weights']:,} weights")
    table.add_row("tasks", f"{plain['tasks']}{from_python}; at most {plain['inputs']['num_classes']} classes per task")
    if evaluated := plain["evaluated"]:
        given = f"{_percent(evaluated['given'])} % with the task given"
        inferred = f", {_percent(evaluated['inferred'])} % inferred" if evaluated["inferred"] is not None else ""
        table.add_row("accuracy", f"{given}{inferred}, over {evaluated['tasks']} tasks")
    if plain["densities"]:
        table.add_row("densities", ", ".join(f"{name} {_percent(x)} %" for name, x in plain["densities"].items()))
    table.add_row("bytes", "\n".join(f"{part}: {size:,}" for part, size in plain["bytes"].items()))
    if plain["versions"]:
        table.add_row("versions", ", ".join(f"{name} {version}" for name, version in plain["versions"].items()))
    _wide_console(100).print(table)


def show_imagenet(rows: Sequence[ImageNetRow]) -> None:
    """Print the table in Figure 2 (left): our accuracy and bytes beside the paper's."""
    table = Table(title="SplitImageNet, task given (Figure 2, left)", title_style="", title_justify="left")
    for name in (
        "method",
        "--sparsity",
        "tasks",
        "seeds",
        "accuracy",
        "MB, masks as bits",
        "MB, counted as in the paper",
    ):
        table.add_column(name, justify="left" if name == "method" else "right")
    table.add_column("paper: accuracy", justify="right")
    table.add_column("paper: MB", justify="right")
    for method, scale, paper, point in rows:
        measured = [""] * 5
        if point:
            deviation = f" ± {point.deviation:.2f}" if point.seeds > 1 else ""
            sizes = f"{point.megabytes_of_bits:,.2f}", f"{point.megabytes:,.2f}"
            measured = [str(point.tasks), str(point.seeds), f"{point.accuracy:.2f}{deviation}", *sizes]
        known = (f"{paper[0]:.2f}", f"{paper[1]:,.2f}") if paper else ("", "")
        table.add_row(method, "" if scale is None else f"{scale:g}", *measured, *known)
    _wide_console(130).print(table)


def _print_table(
    title: str, columns: dict[str, Callable[[EvaluationResult], str]], results: Sequence[EvaluationResult]
) -> None:
    table = Table(title=title, title_style="", title_justify="left")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        table.add_row(*(cell(result) for cell in columns.values()))
    _wide_console(130).print(table)


def _percent(values: Any, errors: Any = None) -> str:
    percent = "" if values is None else f"{100 * np.mean(values):.2f}".replace("-0.00", "0.00")
    return percent if errors is None else f"{percent} ± {100 * error_of_mean(errors):.2f}"


def _within(seconds: float) -> str:
    return "" if math.isinf(seconds) else f" if that takes at most {seconds:g} s"
