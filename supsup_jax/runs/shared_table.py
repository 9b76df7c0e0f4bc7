"""`results.csv`: a row for each task of all runs of an experiment, to which any number of processes write."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from supsup_jax.errors import UserError
from supsup_jax.runs.records import TaskResult
from supsup_jax.system import atomic, locks
from supsup_jax.system.rows import csv_text, delimiter_of, read_rows

RESULTS_HEADER = ["Date Finished", "Name", "Current Val", "Best Val", "Save Directory"]

# Seconds to wait for the lock of the table, which each process holds for milliseconds.
_PATIENCE = 300.0


def append_results(
    path: Path, save_directory: Path, name: str, tasks: Iterable[TaskResult], are_new: bool = False
) -> None:
    """Appends one row a task to `results.csv`; rows that are there already are left as they are.

    Any number of processes may do so at once: a lock lets one write at a time, and rows are written whole.

    Args:
        path: the file.
        save_directory: the run's folder.
        name: the run's name.
        tasks: a row each.
        are_new: whether none of the rows can be there. The file is not read then.
    """
    save_directory = save_directory.resolve()
    with locks.held(path.with_name(f".{path.name}.lock"), _PATIENCE):
        known: set[tuple[str, ...]] = set()  # without the date, which spreadsheets write in their own way
        text, delimiter = "", ","
        if path.is_file() and path.stat().st_size:
            if not are_new:
                known = _rows(path)
            with path.open("rb") as file:
                delimiter = delimiter_of(file.readline().decode(errors="replace"))
                file.seek(-1, os.SEEK_END)
                text = "" if file.read() == b"\n" else "\n"  # a row that another program left unfinished
        else:
            text = csv_text([RESULTS_HEADER])
        rows = [
            [
                task.finished,
                f"{name}~task={task.task}",
                f"{task.accuracy:.4f}",
                f"{task.best:.4f}",
                str(save_directory),
            ]
            for task in tasks
        ]
        atomic.append(path, text + csv_text([row for row in rows if tuple(row[1:]) not in known], delimiter))


def _rows(path: Path) -> set[tuple[str, ...]]:
    """The rows of `results.csv` without their dates; other programs may have written to it as well.

    Raises:
        UserError: if it is none.
    """
    try:
        return {
            (name, *map(_four_places, accuracies), folder)
            for _, name, *accuracies, folder in filter(_is_whole, read_rows(path, errors="surrogateescape"))
        }
    except csv.Error as error:
        raise UserError(f"{path} is no table ({error}); move it elsewhere") from None


def _is_whole(row: Sequence[str]) -> bool:
    return len(row) == len(RESULTS_HEADER)


def _four_places(cell: str) -> str:
    """An accuracy as it was written; spreadsheets leave zeros out."""
    try:
        return f"{float(cell):.4f}"
    except ValueError:
        return cell
