"""Charts as SVG that follows the page's colours; each has a title and a description for screen readers.

Series are distinguished by colour, marker and line style, so that they are legible in print and without colour vision.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

from supsup_jax.runs.tables import Curve

NUM_STYLES = 8
"""Number of colours that the page's style sheet defines."""

_WIDTH, _HEIGHT = 480, 310
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 16, 10, 50

_NUM_TICKS = 5

# Paths of markers around the origin.
_MARKERS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "M-4,-4h8v8h-8z",
    "M0,-5l5,9h-10z",
    "M0,-5l5,5l-5,5l-5,-5z",
    "M0,5l5,-9h-10z",
    "M-1.5,-5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
)


class Series(NamedTuple):
    """Points of one method in a chart.

    Attributes:
        label: name of the method.
        style: number of its colour and marker.
        points: positions, values and standard deviations; `Curve.seeds` is 1 if there are no deviations.
        is_dashed: whether the line is dashed.
    """

    label: str
    style: int
    points: Curve
    is_dashed: bool = False


class Axis(NamedTuple):
    """Axis of a chart.

    Attributes:
        title: quantity and unit.
        is_log: whether the axis is logarithmic.
        shown: formats the value at a tick.
    """

    title: str
    is_log: bool = False
    shown: Callable[[float], str] = "{:g}".format


def chart(title: str, x: Axis, y: Axis, series: Sequence[Series], name: str) -> str:
    """Return a chart of several series, with a line through the points of each series.

    Args:
        title: title, for screen readers.
        x: horizontal axis.
        y: vertical axis.
        series: the series.
        name: identifier of the chart, unique on the page.
    """
    to_x, x_ticks = _scale([at for each in series for at in each.points.at], x.is_log, _LEFT, _WIDTH - _RIGHT)
    ends = [
        mean + sign * deviation
        for each in series
        for mean, deviation in zip(each.points.mean, each.points.deviation, strict=True)
        for sign in (-1, 1)
    ]
    to_y, y_ticks = _scale(ends, y.is_log, _HEIGHT - _BOTTOM, _TOP)
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [f'<line class="axis" x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>']
    for tick in x_ticks:
        parts.append(f'<line class="grid" x1="{to_x(tick):.1f}" y1="{_TOP}" x2="{to_x(tick):.1f}" y2="{bottom}"/>')
        parts.append(_text(to_x(tick), bottom + 18, x.shown(tick), "middle"))
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{to_y(tick):.1f}" x2="{right}" y2="{to_y(tick):.1f}"/>')
        parts.append(_text(_LEFT - 8, to_y(tick) + 4, y.shown(tick), "end"))
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 10, x.title, "middle"))
    turned = _text(0, 0, y.title, "middle")
    parts.append(f'<g transform="translate(14 {(_TOP + bottom) / 2:.0f}) rotate(-90)">{turned}</g>')
    parts += [part for each in series for part in _drawn(each, to_x, to_y)]
    described = escape("; ".join(_description(each, x, y) for each in series))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{described}</desc>'
        f"{''.join(parts)}</svg>"
    )


def swatch(style: int) -> str:
    """Return a small picture of a series' colour and marker, for the legend."""
    return (
        f'<svg class="swatch s{style % NUM_STYLES}" viewBox="-14 -7 28 14" aria-hidden="true">'
        f'<line class="line" x1="-13" y1="0" x2="13" y2="0"/><path class="mark" d="{_marker(style)}"/></svg>'
    )


def _drawn(series: Series, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> Iterable[str]:
    """Yield the line, the error bars and the markers of a series."""
    points = series.points
    places = [(to_x(at), to_y(mean)) for at, mean in zip(points.at, points.mean, strict=True)]
    yield f'<g class="s{series.style % NUM_STYLES}{" dashed" if series.is_dashed else ""}">'
    if len(places) > 1:
        yield f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
    for (x, y), mean, deviation in zip(places, points.mean, points.deviation, strict=True):
        if deviation:
            low, high = to_y(mean - deviation), to_y(mean + deviation)
            yield f'<path class="line bar" d="M{x:.1f},{low:.1f}V{high:.1f}m-4,0h8M{x - 4:.1f},{low:.1f}h8"/>'
        yield f'<path class="mark" transform="translate({x:.1f} {y:.1f})" d="{_marker(series.style)}"/>'
    yield "</g>"


def _marker(style: int) -> str:
    return _MARKERS[style % len(_MARKERS)]


def _description(series: Series, x: Axis, y: Axis) -> str:
    points = series.points
    return f"{series.label}: " + ", ".join(
        f"{y.title} {mean:.2f}" + (f" ± {deviation:.2f}" if deviation else "") + f" at {x.title} {x.shown(at)}"
        for at, mean, deviation in zip(points.at, points.mean, points.deviation, strict=True)
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _scale(
    values: Sequence[float], is_log: bool, start: float, end: float
) -> tuple[Callable[[float], float], list[float]]:
    """Return the function from values to positions, and the ticks.

    Args:
        values: all values that the axis has to show.
        is_log: whether the axis is logarithmic; all values are then positive.
        start: position of the smallest value.
        end: position of the largest value.
    """
    low, high = min(values), max(values)
    if is_log:
        low, high = math.log10(low) - 0.3, math.log10(high) + 0.3
        bases = (1,) if high - low > 2 else (1, 2, 5)
        powers = range(math.floor(low), math.ceil(high) + 1)
        ticks = [base * 10.0**power for power in powers for base in bases]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
    else:
        margin = 0.05 * (high - low) or 1.0
        low, high = low - margin, high + margin
        step = _step((high - low) / _NUM_TICKS)
        ticks = [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]

    def place(value: float) -> float:
        share = ((math.log10(value) if is_log else value) - low) / (high - low)
        return start + share * (end - start)

    return place, ticks


def _step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is at least this large."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(base * power for base in (1, 2, 5, 10) if base * power >= least * (1 - 1e-9))
