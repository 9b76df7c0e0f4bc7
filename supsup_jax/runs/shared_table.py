"""`results.csv`: one row per task of all runs of an experiment. Several processes may write to it."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from supsup_jax.errors import UserError
from supsup_jax.runs.records import TaskResult
from supsup_jax.system import atomic, locks
from supsup_jax.system.rows import csv_text, delimiter_of, read_rows

RESULTS_HEADER = ["Date Finished", "Name", "Current Val", "Best Val", "Save Directory"]

# Maximum number of seconds to wait for the lock of the table, which each process holds for milliseconds.
_LOCK_TIMEOUT = 300.0


def append_results(
    path: Path, save_directory: Path, name: str, tasks: Iterable[TaskResult], are_new: bool = False
) -> None:
    """Append one row per task to `results.csv`, except for rows that it already contains.

    Several processes may do so at the same time: a lock serialises them, and each row is written as a whole.

    Args:
        path: the file.
        save_directory: folder of the run.
        name: name of the run.
        tasks: the tasks.
        are_new: whether the file contains none of these rows. The file is not read then.
    """
    save_directory = save_directory.resolve()
    with locks.held(path.with_name(f".{path.name}.lock"), _LOCK_TIMEOUT):
        known: set[tuple[str, ...]] = set()  # without the date, whose format spreadsheets change
        text, delimiter = "", ","
        if path.is_file() and path.stat().st_size:
            if not are_new:
                known = _rows(path)
            with path.open("rb") as file:
                delimiter = delimiter_of(file.readline().decode(errors="replace"))
                file.seek(-1, os.SEEK_END)
                text = "" if file.read() == b"\n" else "\n"  # another program may have left an incomplete row
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
    """Return the rows of `results.csv` without their dates; other programs may have written to the file.

    Raises:
        UserError: if the file is not a CSV file.
    """
    try:
        return {
            (name, *map(_four_places, accuracies), folder)
            for _, name, *accuracies, folder in filter(_is_whole, read_rows(path, errors="surrogateescape"))
        }
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file ({error}); move it to a different folder") from None


def _is_whole(row: Sequence[str]) -> bool:
    return len(row) == len(RESULTS_HEADER)


def _four_places(cell: str) -> str:
    """Return an accuracy in its original form; spreadsheets drop trailing zeros."""
    try:
        return f"{float(cell):.4f}"
    except ValueError:
        return cell
