"""What the user sees: progress while a run goes on, and a table at its end."""

import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

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
    table = Table(title=f"{outcome.folder}: accuracies in %", title_style="", title_justify="left")
    for name in (
        "tasks\nlearned",
        "accuracy,\ntask given",
        "accuracy,\ninferred",
        "... per\nimage",
        "inference\nright",
        "... per\nimage",
        "time\nto train",
        "time\nto eval.",
        "bytes of\nmasks",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for result in sorted(outcome.record.evaluations, key=lambda result: result.num_tasks):
        means = (
            result.given,
            result.inferred,
            result.inferred_per_image,
            result.picked,
            result.picked_per_image,
        )
        table.add_row(
            str(result.num_tasks),
            *(f"{100 * np.mean(values):.2f}" for values in means),
            duration(result.training_seconds),
            duration(result.seconds),
            f"{result.mask_bytes:,}",
        )
    console = Console()
    console.width = max(console.width, 110)  # a table cut off in a log file is of no use
    console.print(table)
    print(f"per image: one task inferred for each of {outcome.parts.protocol.images_per_task} test images a task")
    for path in (
        outcome.folder.parent / "results.csv",
        *(outcome.folder / name for name in ("adapt_results.csv", "confusion.csv", "metrics.jsonl", "settings.yaml")),
        *sorted(outcome.folder.glob("events.out.tfevents.*")),
        outcome.folder / "checkpoints",
        outcome.folder / "accuracy.png",
    ):
        print(path)
