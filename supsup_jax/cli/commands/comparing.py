"""The command that compares the methods of several runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from supsup_jax.cli.commands.command import Command, Runs, folders
from supsup_jax.comparison.measures import MEASURES
from supsup_jax.comparison.page import page
from supsup_jax.comparison.sections import Row, Section, compare
from supsup_jax.errors import UserError
from supsup_jax.runs import tables
from supsup_jax.system import atomic


@dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Compare methods on one benchmark: accuracy, forgetting, transfer, bytes and training time.

    Runs that differ only in their seed are one row: mean and standard deviation over seeds. Runs of different
    benchmarks (other data, tasks or order) are shown separately.
    """

    runs: Runs
    """Folders of runs, or folders that contain them, such as runs/GNu/MNISTPerm."""

    html: Path | None = None
    """HTML file to write: sortable tables and charts on a page without links to other files.
    By default the tables are printed."""

    def run(self) -> None:
        """Compare the runs, and print the tables or write the page.

        Raises:
            UserError: if the runs or the file cannot be used; then nothing is written.
        """
        html = self.html and self.html.expanduser()
        if html and not html.parent.is_dir():
            raise UserError(f"--html {html}: the folder {html.parent} does not exist; create it, or give another file")
        if html and html.is_dir():
            raise UserError(f"--html {html}: is a folder; give a file, such as {html / 'report.html'}")
        sections = compare(tables.read_runs(folders(self.runs, "compare")))
        if html:
            atomic.write(html, page(sections))
        plain = {"written": html, "benchmarks": [_plain(section) for section in sections]}
        self.print_result(plain, lambda: print(html) if html else _show(sections))


def _plain(section: Section) -> dict[str, Any]:
    return {
        "benchmark": section.tasks,
        "methods": [
            {
                "method": row.label,
                "tasks": row.num_tasks,
                "seeds": row.seeds,
                "runs": [run.folder for run in row.runs],
                "measured": {
                    name: {"mean": each.mean, "deviation": each.deviation, "by_seed": each.values}
                    for name, each in row.statistics.items()
                },
                "curves": {kind: curve._asdict() for kind, curve in row.curves.items()},
                "settings": row.settings,
            }
            for row in section.rows
        ],
        "units": {name: MEASURES[name].unit for name in section.columns},
        "not_measured": section.not_measured,
        "differing": section.differing,
        "notes": section.notes,
    }


def _show(sections: list[Section]) -> None:
    """Print the tables of all benchmarks."""
    console = Console()
    console.width = max(console.width, 220)  # tables are not truncated in log files
    for section in sections:
        table = Table(title=section.title, title_style="", title_justify="left")
        table.add_column("method", no_wrap=True)
        for name in ("tasks", "seeds"):
            table.add_column(name, justify="right")
        for name in section.columns:
            width = max(
                len(row.statistics[name].text(MEASURES[name].unit)) for row in section.rows if name in row.statistics
            )
            unit = {"%": ", %", "points": ", points"}.get(MEASURES[name].unit, "")
            table.add_column(MEASURES[name].title + unit, justify="right", min_width=width)
        for row in section.rows:
            table.add_row(row.label, str(row.num_tasks), str(len(row.runs)), *_cells(row, section.columns))
        console.print(table)
        if section.differing:
            differing = Table(title="settings that differ", title_style="", title_justify="left")
            differing.add_column("setting")
            for row in section.rows:
                differing.add_column(row.label)
            for name, values in section.differing.items():
                differing.add_row(name, *("–" if value is None else str(value) for value in values))
            console.print(differing)
        for note in section.notes:
            print(note)
        for name, reason in section.not_measured.items():
            print(f"not measured: {MEASURES[name].title}: {reason}")


def _cells(row: Row, columns: list[str]) -> list[str]:
    return [row.statistics[name].text(MEASURES[name].unit) if name in row.statistics else "–" for name in columns]
