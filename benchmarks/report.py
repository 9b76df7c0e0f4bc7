"""Measurements of formulations as Markdown tables."""

import statistics
from collections.abc import Sequence

from compare import Case, Row

COLUMNS = ("seconds", "times the first row's", "share of the floor", "first call, s", "peak memory")


def spread(values: Sequence[float], form: str) -> str:
    """Return the median, with the minimum and the maximum if there are several values."""
    middle = format(statistics.median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def floors(case: Case, peaks: Sequence[dict[str, float]]) -> str:
    """Return a sentence with the floor of a case for each precision of its formulations."""
    rates = {name: statistics.median(peak[name] for peak in peaks) for name in peaks[0]}
    names = {}  # by the rate of their precision
    for name, formulation in case.formulations.items():
        if formulation.precision:
            names.setdefault(formulation.precision if formulation.precision in rates else "float32", name)
    parts = []
    for precision, name in names.items():
        label = f" ({precision})" if len(names) > 1 else ""
        parts.append(f"{case.floor(rates, name):.3g} s, at {rates[precision] / 1e9:.0f} GFLOP/s{label}")
    return f"Floor: {'; '.join(parts)} and {rates['bytes'] / 1e9:.0f} GB/s."


def markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table of rows for each case."""
    lines = []
    for row in rows:
        if not lines or row.case is not case:
            case = row.case
            names = ["", f"{case.unit}/s", *COLUMNS]
            lines.append(f"\n### {case.name}\n")
            if row.peaks and (case.operations or case.num_bytes):
                lines.append(floors(case, row.peaks) + "\n")
            lines += [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
        if row.missing:
            lines.append(f"| {row.name} | {row.missing} | | | | | |")
            continue
        middle = statistics.median(row.seconds)
        share = f"{100 * statistics.median(row.shares):.0f} %" if any(row.shares) else ""
        notes = "".join(f"; {key} {value:,.0f}" for key, value in row.notes.items())
        cells = [
            row.name,
            f"{case.work / middle:,.2f}" if case.work / middle < 10 else f"{case.work / middle:,.0f}",
            spread(row.seconds, ".3g") + notes,
            spread(row.ratios, ".2f"),
            share,
            f"{statistics.median(row.first):.1f}",
            f"{statistics.median(row.memory) / 2**20:,.0f} MB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
