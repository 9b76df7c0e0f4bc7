"""Colours, markers and line styles of methods in the figures, legible in print and without colour vision."""

from typing import Any, NamedTuple

from supsup_jax.paper.published import NNS
from supsup_jax.runs.tables import Curve

# Okabe and Ito's palette.
AMBER, SKY, GREEN, BLUE, ORANGE, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#999999"


class Look(NamedTuple):
    """The style of a method's curve.

    Attributes:
        label: name in the legend.
        colour: colour of our points; the paper's points are black.
        marker: marker of our points and the paper's.
        line: style of the line through our points.
        forgets: whether accuracy drops too far for the scale of the other methods.
    """

    label: str
    colour: str
    marker: str
    line: Any
    forgets: bool = False


_SUPSUP = Look("SupSup (GNu, H)", BLUE, "o", "-")
LOOKS: dict[str, Look] = {
    "upper_bound": Look("upper bound (GG)", AMBER, "^", (0, (7, 2))),
    "supsup": _SUPSUP,
    "supsup_h": _SUPSUP,
    "supsup_g": Look("SupSup (GNu, G)", SKY, "s", "--"),
    NNS: Look("SupSup (NNs, H)", PURPLE, "D", "-."),
    "batche": Look("BatchE (GG)", GREEN, "v", "-."),
    "batche_one_shot": Look("BatchE (GNu, one gradient)", PURPLE, "D", (0, (1, 2)), forgets=True),
    "psp": Look("PSP (GG)", ORANGE, "P", ":", forgets=True),
    "lower_bound": Look("lower bound (GG)", GREY, "X", (0, (3, 1, 1, 1, 1, 1)), forgets=True),
    "rn18-supsup": Look("SupSup", BLUE, "o", "-"),
    "rn18-supsup-transfer": Look("SupSup Transfer", SKY, "s", "--"),
    "rn18-batche-randw": Look("BatchE (Rand W)", GREEN, "v", ""),
    "rn18-separate-heads": Look("separate heads", ORANGE, "P", ""),
    "rn18-separate-heads-randw": Look("separate heads (Rand W)", PURPLE, "X", ""),
    "rn18-upperbound": Look("upper bound", AMBER, "^", ""),
    "rn18-lowerbound": Look("lower bound", PURPLE, "*", ""),
}
"""Styles by the name of the curve, or of its script."""

PAPER: dict[str, Any] = {"color": "black", "linestyle": "none", "markerfacecolor": "none", "markersize": 10}
"""Style of the paper's points."""


def look_of(curve: str) -> Look:
    """Return the style of a curve, given its name."""
    return LOOKS.get(curve) or LOOKS[curve.rpartition("/")[2]]


def plot_curve(axes: Any, curve: Curve, look: Look, label: str, marked: Any) -> None:
    """Draw a curve, with markers and error bars at the points that `marked` selects (Matplotlib's `markevery`)."""
    axes.errorbar(
        curve.at,
        curve.mean,
        curve.deviation if curve.seeds > 1 else None,
        color=look.colour,
        marker=look.marker,
        linestyle=look.line,
        markersize=5,
        markevery=marked,
        errorevery=marked,
        capsize=3,
        label=label if curve.seeds == 1 else f"{label}, {curve.seeds} seeds ± std",
    )
