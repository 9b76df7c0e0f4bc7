"""Tables in CSV, as this package writes them and as spreadsheets save them.

Spreadsheets pad all rows with empty cells, and some write semicolons, decimal commas, CRLF, or a byte order mark.
"""

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def csv_text(rows: Iterable[Iterable[Any]], delimiter: str = ",") -> str:
    """Return rows as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_rows(path: Path, errors: str = "strict") -> list[list[str]]:
    """Return the rows of a table, header first, without empty rows and without empty cells at the end of rows.

    Args:
        path: the file.
        errors: how to treat bytes that are not UTF-8, as in `open`.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not text.
        csv.Error: if it is not a table.
    """
    with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
        delimiter = delimiter_of(file.readline())
        file.seek(0)
        rows = [_stripped(row) for row in csv.reader(file, delimiter=delimiter)]
    if delimiter != ",":  # such spreadsheets write decimal commas: 0,5
        rows = [[re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", cell) for cell in row] for row in rows]
    return [row for row in rows if row]


def delimiter_of(header: str) -> str:
    """Return the delimiter of a table, given its first line."""
    return max(",;\t", key=header.count)


def _stripped(row: list[str]) -> list[str]:
    """Return a row without the empty cells at its end."""
    while row and not row[-1].strip():
        row = row[:-1]
    return row
