"""The comparison as one HTML file without links to other files: sortable tables and charts."""

import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from supsup_jax import __version__
from supsup_jax.comparison.charts import Axis, Series, chart, swatch
from supsup_jax.comparison.measures import MEASURES
from supsup_jax.comparison.sections import Row, Section
from supsup_jax.runs.records import now
from supsup_jax.runs.tables import Curve

_IN_HEADER = {"%": "%", "points": "points", "bytes": "", "s": ""}

# Largest number of tasks with a linear axis; beyond, it is logarithmic.
_MOST_ON_LINEAR_AXIS = 300


def page(sections: Sequence[Section]) -> str:
    """Return the page.

    Args:
        sections: the compared methods of each benchmark.
    """
    style, script = ((files(__package__ or "") / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    title = f"Comparison of methods on {sections[0].title if len(sections) == 1 else f'{len(sections)} benchmarks'}"
    contents = "".join(_section(section, number) for number, section in enumerate(sections))
    several = (
        "<p>The runs belong to different benchmarks, whose accuracies cannot be compared: each has a section.</p>"
        if len(sections) > 1
        else ""
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n<body><main><h1>{escape(title)}</h1>"
        f'<p class="faint">supsup_jax {__version__}, {now()}</p>{several}{contents}{_definitions(sections)}'
        f"</main><script>\n{script}</script></body></html>\n"
    )


def _section(section: Section, number: int) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in section.notes)
    notes = f"<ul>{notes}</ul>" if notes else ""
    styles = {row.label: style for style, row in enumerate(section.rows)}
    return (
        f'<section aria-labelledby="section-{number}"><h2 id="section-{number}">{escape(section.title)}</h2>\n'
        f"{_results(section, styles)}{notes}{_charts(section, styles, f'chart-{number}')}"
        f"{_settings(section)}{_runs(section)}</section>\n"
    )


def _results(section: Section, styles: dict[str, int]) -> str:
    """Return the table of all measured quantities, whose columns can be sorted."""
    heads = [_head("method", "", "ascending"), _head("tasks", "", "descending"), _head("seeds", "", "descending")]
    for name in section.columns:
        measure = MEASURES[name]
        heads.append(
            _head(measure.title, _IN_HEADER[measure.unit], "descending" if measure.better == "higher" else "ascending")
        )
    rows = "".join(
        f'<tr><th scope="row" data-value="{escape(row.label)}">{swatch(styles[row.label])}{escape(row.label)}</th>'
        f'<td data-value="{row.num_tasks}">{row.num_tasks}</td><td data-value="{len(row.runs)}">{len(row.runs)}</td>'
        f"{''.join(_cell(row, name) for name in section.columns)}</tr>\n"
        for row in section.rows
    )
    absent = "".join(
        f"<dt>{escape(MEASURES[name].title)}</dt><dd>{escape(reason)}</dd>"
        for name, reason in section.not_measured.items()
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Results"><table class="results"><caption>Mean over '
        "seeds ± sample standard deviation; points are percentage points; – was not measured. "
        '<span role="status"></span></caption>'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>\n{rows}</tbody></table></div>\n"
        + (f"<details open><summary>Not measured by these runs</summary><dl>{absent}</dl></details>" if absent else "")
    )


def _head(title: str, unit: str, first: str) -> str:
    """Return the header of a column, a button that sorts it; `first` is the order of the first press."""
    shown = f'<span class="unit">{unit}</span>' if unit else ""
    return (
        f'<th scope="col" data-title="{escape(title)}" data-first="{first}"><button type="button">{escape(title)}'
        f"</button>{shown}</th>"
    )


def _cell(row: Row, name: str) -> str:
    statistic = row.statistics.get(name)
    if statistic is None:
        return f'<td><abbr title="{escape(MEASURES[name].missing)}">–</abbr></td>'
    mean, plus_minus, spread = statistic.text(MEASURES[name].unit).partition(" ± ")
    spread = f' <span class="faint">± {spread}</span>' if plus_minus else ""
    return f'<td data-value="{statistic.mean!r}" data-name="{name}">{mean}{spread}</td>'


def _charts(section: Section, styles: dict[str, int], name: str) -> str:
    """Return accuracy against tasks learned, and accuracy against bytes."""
    figures = []
    curves = [
        Series(f"{row.label}, task {kind}", styles[row.label], curve, is_dashed=kind == "inferred")
        for row in section.rows
        for kind, curve in row.curves.items()
    ]
    if any(len(series.points.at) > 1 for series in curves):
        last = max(at for series in curves for at in series.points.at)
        tasks = Axis("tasks learned", is_log=last > _MOST_ON_LINEAR_AXIS)
        title = "Mean accuracy of the tasks learned so far"
        picture = chart(title, tasks, Axis("accuracy in %"), curves, f"{name}-tasks")
        figures.append((picture, f"{title}. {_lines(curves)}"))
    stored = [
        Series(f"{row.label}, task {kind}", styles[row.label], _point(row, kind), is_dashed=kind == "inferred")
        for row in section.rows
        for kind in ("given", "inferred")
        if kind in row.statistics and "bytes" in row.statistics
    ]
    if stored:
        title = "Accuracy and storage after the last common evaluation"
        picture = chart(title, Axis("bytes", True, _size), Axis("accuracy in %"), stored, f"{name}-bytes")
        figures.append((picture, f"{title}. {_lines(stored)}"))
    legend = "".join(f"<li>{swatch(style)}{escape(label)}</li>" for label, style in styles.items())
    drawn = "".join(f"<figure>{picture}<figcaption>{text}</figcaption></figure>" for picture, text in figures)
    return f'<ul class="legend">{legend}</ul><div class="figures">{drawn}</div>\n' if drawn else ""


def _point(row: Row, kind: str) -> Curve:
    accuracy = row.statistics[kind]
    return Curve([round(row.statistics["bytes"].mean)], [accuracy.mean], [accuracy.deviation or 0.0], len(row.runs))


def _lines(series: Sequence[Series]) -> str:
    """Return the meaning of line styles and error bars, if there are any."""
    sentences = []
    if any(each.is_dashed for each in series):
        sentences.append("Solid lines and filled markers: the task is given; dashed lines and open markers: inferred.")
    if any(any(each.points.deviation) for each in series):
        sentences.append("Bars: standard deviation over seeds.")
    return " ".join(sentences)


def _size(size: float) -> str:
    power = min(int(math.log10(max(size, 1)) / 3 + 1e-9), 4)
    return f"{size / 1000**power:g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _settings(section: Section) -> str:
    """Return the table of the settings in which the methods differ."""
    if not section.differing:
        return ""
    heads = "".join(f'<th scope="col">{escape(row.label)}</th>' for row in section.rows)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td class="word">{_shown(value)}</td>' for value in values)
        + "</tr>\n"
        for name, values in section.differing.items()
    )
    return (
        '<h3>Settings that differ</h3><div class="scroll" tabindex="0" role="region" aria-label="Settings that differ">'
        f'<table class="settings"><thead><tr><th scope="col">setting</th>{heads}</tr></thead><tbody>\n{rows}</tbody>'
        '</table></div><p class="faint">– the method does not have this setting. All other settings are equal.</p>\n'
    )


def _runs(section: Section) -> str:
    """Return the table of the compared runs: folder, seed and commit."""
    rows = "".join(
        f'<tr><th scope="row">{escape(row.label)}</th><td class="word"><code>{escape(str(run.folder))}</code></td>'
        f"<td>{run.seed}</td>"
        f'<td class="word"><code>{_shown(run.about.get("git_commit"))}</code></td></tr>\n'
        for row in section.rows
        for run in row.runs
    )
    return (
        '<details><summary>Runs</summary><div class="scroll"><table class="runs"><thead><tr><th scope="col">method</th>'
        '<th scope="col">folder</th><th scope="col">seed</th><th scope="col">commit</th></tr></thead><tbody>\n'
        f"{rows}</tbody></table></div></details>\n"
    )


def _definitions(sections: Sequence[Section]) -> str:
    used = [name for name in MEASURES if any(name in section.columns for section in sections)]
    terms = "".join(f"<dt>{MEASURES[name].title}</dt><dd>{escape(MEASURES[name].meaning)}</dd>" for name in used)
    return f"<h2>Definitions</h2><dl>{terms}</dl>"


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return escape(f"{value:g}" if isinstance(value, float) else str(value))
