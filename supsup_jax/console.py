"""What the user sees: progress while a run goes on, and a table at its end."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from supsup_jax.records import EvaluationResult, metrics_of
from supsup_jax.scenarios import Outcome, Report


class Reporter:
    """Shows how far a run is: a bar with a rate and the remaining time on a terminal, plain lines elsewhere.

    Args:
        title: what is running.
    """

    def __init__(self, title: str):
        self._title = title
        self._console = Console()
        self._started = time.monotonic()
        self._first: int | None = None
        self._rate = 0.0
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
        """Takes a report of the run."""
        if self._first is None:  # a resumed run starts with tasks that took no time
            self._first, self._started = step.tasks, time.monotonic()
        self._rate = step.steps_per_second or self._rate
        rate = f"{self._rate:,.0f} steps/s{self._remaining(step)}" if self._rate else ""
        if self._console.is_terminal:
            description = f"{self._title}: {step.message}"
            self._bar.update(self._id, completed=step.tasks, total=step.of, description=description, rate=rate)
        else:
            line = f"{self._title} {step.tasks}/{step.of} tasks: {step.message}"
            print(line + (f" ({rate})" if rate else ""), flush=True)

    def _remaining(self, step: Report) -> str:
        learned = step.tasks - (self._first or 0)
        if not learned or step.tasks == step.of:
            return ""
        seconds = (time.monotonic() - self._started) / learned * (step.of - step.tasks)
        return f", about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """A time as people say it: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def show_outcome(outcome: Outcome) -> None:
    """Prints the table of a run's evaluations, then the paths of what was written."""
    results = sorted(outcome.record.evaluations, key=lambda result: result.num_tasks)
    inferred = any(result.inferred is not None for result in results)
    columns: dict[str, Callable[[EvaluationResult], str]] = {
        "tasks\nlearned": lambda result: str(result.num_tasks),
        "accuracy,\ntask given": lambda result: _percent(result.given),
    }
    if inferred:
        columns |= {
            "accuracy,\ninferred": lambda result: _percent(result.inferred),
            "inference\nright": lambda result: _percent(result.picked),
        }
    if any(result.inferred_per_image is not None for result in results):
        columns |= {
            "inferred\nper image": lambda result: _percent(result.inferred_per_image),
            "right\nper image": lambda result: _percent(result.picked_per_image),
        }
    kind = "inferred" if inferred else "given"

    def metric(name: str) -> Callable[[EvaluationResult], str]:
        return lambda result: _percent(getattr(metrics_of(outcome.record, result.num_tasks)[kind], name))

    columns |= {
        "for-\ngetting": metric("forgetting"),
        "backward\ntransfer": metric("backward_transfer"),
        "time\nto train": lambda result: duration(result.training_seconds),
        "time\nto eval.": lambda result: duration(result.seconds),
        "bytes\nkept": lambda result: f"{result.kept_bytes:,}",
    }
    _print_table(f"{outcome.folder}: accuracies in %", columns, results)
    if discovered := [result for result in results if result.discovery]:
        of_discovery: dict[str, Callable[[EvaluationResult], str]] = {
            "tasks\nlearned": lambda result: str(result.num_tasks),
            "masks": lambda result: str((result.discovery or {})["masks"]),
            "tasks that are\nexactly one mask": lambda result: _percent((result.discovery or {})["one_mask"]),
            "\npurity": lambda result: _percent((result.discovery or {})["purity"]),
            "\ncompleteness": lambda result: _percent((result.discovery or {})["completeness"]),
        }
        _print_table("discovered masks, in %", of_discovery, discovered)
    if results[-1].picked_per_image:
        print(f"per image: one task inferred for each of {outcome.parts.protocol.images_per_task} test images a task")
    print(f"forgetting and backward transfer: with the task {kind}, in points; files: accuracy_matrix.csv, metrics.csv")
    for path in (
        outcome.folder.parent / "results.csv",
        *sorted(outcome.folder.glob("*.csv")),
        *(outcome.folder / name for name in ("metrics.jsonl", "settings.yaml")),
        *sorted(outcome.folder.glob("events.out.tfevents.*")),
        outcome.folder / "checkpoints",
        *sorted(outcome.folder.glob("*.png")),
    ):
        print(path)


def _print_table(
    title: str, columns: dict[str, Callable[[EvaluationResult], str]], results: Sequence[EvaluationResult]
) -> None:
    table = Table(title=title, title_style="", title_justify="left")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        table.add_row(*(cell(result) for cell in columns.values()))
    console = Console()
    console.width = max(console.width, 130)  # a table cut off in a log file is of no use
    console.print(table)


def _percent(values: Sequence[float] | float | None) -> str:
    return "" if values is None else f"{100 * np.mean(values):.2f}".replace("-0.00", "0.00")
