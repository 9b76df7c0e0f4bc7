"""Pictures of results, legible in print and without colour vision: of one run, and the paper's figures from many."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from supsup_jax.errors import UserError
from supsup_jax.published import ACCURACIES, DEVIATIONS, FC_250, HOPSUPSUP, LENET_250, LENET_2500
from supsup_jax.records import Record
from supsup_jax.tables import (
    Curve,
    Run,
    StoragePoint,
    check_settings,
    over_seeds,
    read_recovery,
    storage_points,
)

if TYPE_CHECKING:
    import matplotlib.figure

# Okabe and Ito's palette.
AMBER, SKY, GREEN, BLUE, ORANGE, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#999999"


class Look(NamedTuple):
    """How a method is drawn.

    Attributes:
        label: its name in a legend.
        colour: of our points; the paper's are black.
        marker: of our points and the paper's.
        line: style of the line through our points.
        identity: whether the paper's curve has the task given or inferred.
        forgets: whether accuracy falls too far to be drawn on the others' scale.
    """

    label: str
    colour: str
    marker: str
    line: Any
    identity: Literal["given", "inferred"] = "given"
    forgets: bool = False


_SUPSUP = Look("SupSup (GNu, H)", BLUE, "o", "-", "inferred")
_LOOKS = {
    "upper_bound": Look("upper bound (GG)", AMBER, "^", (0, (7, 2))),
    "supsup": _SUPSUP,
    "supsup_h": _SUPSUP,
    "supsup_g": Look("SupSup (GNu, G)", SKY, "s", "--", "inferred"),
    "NNs/supsup": Look("SupSup (NNs, H)", PURPLE, "D", "-.", "inferred"),
    "batche": Look("BatchE (GG)", GREEN, "v", "-."),
    "psp": Look("PSP (GG)", ORANGE, "P", ":", forgets=True),
    "lower_bound": Look("lower bound (GG)", PURPLE, "X", (0, (3, 1, 1, 1, 1, 1)), forgets=True),
    "rn18-supsup": Look("SupSup", BLUE, "o", "-"),
    "rn18-supsup-transfer": Look("SupSup Transfer", SKY, "s", "--"),
    "rn18-batche-randw": Look("BatchE (Rand W)", GREEN, "v", ""),
    "rn18-separate-heads": Look("separate heads", ORANGE, "P", ""),
    "rn18-separate-heads-randw": Look("separate heads (Rand W)", PURPLE, "X", ""),
    "rn18-upperbound": Look("upper bound", AMBER, "^", ""),
    "rn18-lowerbound": Look("lower bound", PURPLE, "*", ""),
}
_METHODS = ("upper_bound", "supsup", "supsup_h", "supsup_g", "batche", "psp", "lower_bound")

_FIGURES = {
    "figure4": (
        "MNISTPerm, 250 tasks: Figure 4 (Figure 3 of the camera-ready)",
        {
            "left: LeNet 300-100": [f"{LENET_250}/{method}" for method in _METHODS],
            "right: FC 1024-1024": [f"{FC_250}/{method}" for method in _METHODS],
        },
    ),
    "figure5": (
        "MNISTPerm, 2,500 tasks: Figure 5 (Figure 4 of the camera-ready)",
        {"LeNet 300-100": [*(f"{LENET_2500}/{method}" for method in _METHODS), "NNs/supsup"]},
    ),
    "figure6": (
        "MNISTRotate, 36 tasks: Figure 6 (Figure 5 of the camera-ready)",
        {"FC 1024-1024": [f"GNu/MNISTRotate/{method}" for method in _METHODS]},
    ),
}
_SPLITCIFAR100 = [f"GG/splitcifar100/{name}" for name in _LOOKS if name.startswith("rn18-")]
SHOWN = {
    HOPSUPSUP,
    *_SPLITCIFAR100,
    *(name for _, panels in _FIGURES.values() for names in panels.values() for name in names),
}
"""The experiments that a figure shows."""

_PAPER: dict[str, Any] = {"color": "black", "linestyle": "none", "markerfacecolor": "none", "markersize": 10}


def accuracy_curve(runs: Sequence[Run]) -> Curve:
    """Accuracy of an experiment against tasks learned: the task inferred for SupSup, given for what it is compared to.

    Args:
        runs: of one experiment, each with another seed.

    Raises:
        UserError: if their settings differ, or they were not evaluated as the figure shows.
    """
    check_settings(runs)
    identity = _look(runs[0].name).identity
    for run in runs:
        if not run.accuracies[identity]:
            raise UserError(f"{run.folder} was not evaluated with the task {identity}; give folders without this run")
    return over_seeds([run.accuracies[identity] for run in runs])


def _look(name: str) -> Look:
    return _LOOKS.get(name) or _LOOKS[name.rpartition("/")[2]]


def draw_paper(runs: Iterable[Run]) -> dict[str, "matplotlib.figure.Figure"]:
    """Draws the figures of the paper for which there are runs, by the name of the file for each.

    Args:
        runs: one for each experiment and seed.

    Raises:
        UserError: if no figure shows these runs, they do not belong together, or have not what the figure shows.
    """
    of_name: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        of_name[run.name].append(run)
    if of_name.keys().isdisjoint(SHOWN):
        raise UserError(
            f"no figure of the paper shows {', '.join(sorted(of_name))}; give runs of the scripts in experiments/GG, "
            "experiments/GNu or experiments/NNs"
        )
    pictures = {}
    if points := {name: storage_points(of_name[name]) for name in _SPLITCIFAR100 if name in of_name}:
        pictures["figure3"] = _draw_storage(points)
    for file, (title, panels) in _FIGURES.items():
        drawn = {
            panel: {name: accuracy_curve(of_name[name]) for name in names if name in of_name}
            for panel, names in panels.items()
            if not of_name.keys().isdisjoint(names)
        }
        if drawn:
            pictures[file] = _draw_accuracies(title, drawn)
    if HOPSUPSUP in of_name:
        check_settings(of_name[HOPSUPSUP])
        pictures["recovery"] = draw_recovery([run.folder for run in of_name[HOPSUPSUP]])
    return pictures


def _draw_storage(curves: Mapping[str, Sequence[StoragePoint]]) -> "matplotlib.figure.Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 5.6), layout="constrained", dpi=200)
    figure.suptitle("SplitCIFAR100, GG: Figure 3, right (Figure 2 of the camera-ready)")
    axes = figure.subplots()
    for name, points in curves.items():
        look, ordered = _look(name), sorted(points)
        seeds = max(point.seeds for point in points)
        axes.errorbar(
            [point.megabytes for point in ordered],
            [point.accuracy for point in ordered],
            [point.deviation for point in ordered] if seeds > 1 else None,
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            markersize=7,
            capsize=3,
            label=look.label if seeds == 1 else f"{look.label}, {seeds} seeds ± std",
        )
    axes.set(
        xscale="log",
        xlabel="megabytes kept, two bytes for each weight of a mask",
        ylabel="mean accuracy over tasks (%)",
    )
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", handlelength=4)
    return figure


def _draw_accuracies(title: str, panels: Mapping[str, Mapping[str, Curve]]) -> "matplotlib.figure.Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 5.2 * len(panels), 5.6), layout="constrained", dpi=200)
    figure.suptitle(title)
    columns = figure.subfigures(1, len(panels), squeeze=False)[0]
    for column, (heading, curves) in zip(columns, panels.items(), strict=True):
        _draw_panel(column, heading, curves)
    return figure


def _draw_panel(column: Any, heading: str, curves: Mapping[str, Curve]) -> None:
    """Draws the curves of one network, those that fall on a coarser scale below the others."""
    points = {name: [*curve.mean, *ACCURACIES.get(name, {}).values()] for name, curve in curves.items()}
    kept = [value for name, values in points.items() if not _look(name).forgets for value in values]
    lowest, highest = (bound(value for values in points.values() for value in values) for bound in (min, max))
    # Differences of a fraction of a point are not to look like cliffs.
    floor = math.floor(min(min(kept, default=lowest) - 0.3, highest - 4))
    if lowest < floor:
        upper, lower = column.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        lower.set(ylim=(0, floor), facecolor="0.95", yticks=range(0, floor - 10, 25))
        lower.set_title(f"below {floor} %, on another scale", fontsize="small", loc="right", pad=3)
        axes = [upper, lower]
    else:
        axes = [column.subplots()]
    axes[0].set(title=heading, ylim=(floor, highest + 0.3))
    axes[-1].set(xlabel="tasks learned")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    column.supylabel("mean accuracy over tasks learned (%)", fontsize="medium")
    for panel in axes:
        low, high = panel.get_ylim()
        panel.grid(alpha=0.3)
        for name, curve in curves.items():
            if min(points[name]) > high:
                continue
            look = _look(name)
            inside = {at: value for at, value in ACCURACIES.get(name, {}).items() if low <= value <= high}
            deviation = [DEVIATIONS.get((name, at), 0) for at in inside]
            panel.errorbar(list(inside), list(inside.values()), deviation, marker=look.marker, **_PAPER)
            _plot_curve(panel, curve, look, look.label, [low <= value <= high for value in curve.mean])
    if not curves.keys().isdisjoint(ACCURACIES):
        axes[0].errorbar([], [], marker="o", label="paper (black, same shape)", **_PAPER)
    handles, labels = axes[0].get_legend_handles_labels()
    column.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small", handlelength=4)


def _plot_curve(axes: Any, curve: Curve, look: Look, label: str, marked: Any) -> None:
    """Draws a curve, with markers and bars only at some of its points, as Matplotlib's `markevery` has it."""
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


def draw_recovery(folders: Sequence[Path]) -> "matplotlib.figure.Figure":
    """Draws how the masks of HopSupSup's tasks were recovered in the last evaluation.

    Args:
        folders: of runs, each with another seed.

    Raises:
        UserError: if a run's table is damaged.
    """
    from matplotlib.figure import Figure

    seeds = [read_recovery(folder / "recovery.csv") for folder in folders]
    figure = Figure(figsize=(11, 4.4), layout="constrained", dpi=200)
    figure.suptitle("SplitMNIST: HopSupSup recovers the mask of each task from a memory (Section 3.5)")
    panels = figure.subplots(1, 3, sharex=True)
    looks = list(dict.fromkeys(_LOOKS.values()))
    headings = "Hamming distance to the task's mask", "energy of the memory", "entropy of the outputs (nats)"
    for quantity, (axes, heading) in enumerate(zip(panels, headings, strict=True)):
        for task in sorted(set().union(*seeds)):
            path = over_seeds([seed[task][quantity] for seed in seeds if task in seed])
            marked = (task % 5, 5)  # no marker hides another
            _plot_curve(axes, path, looks[task % len(looks)], f"task {task}", marked)
        axes.axvline(30, color="black", linestyle="--", linewidth=1, label="paper: recovered before step 30")
        axes.set(title=heading, xlabel="gradient step")
        axes.title.set_fontsize("medium")
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small", handlelength=4)
    return figure


def save(figure: "matplotlib.figure.Figure", path: Path) -> None:
    """Writes a picture whole or not at all; the path's ending says the format."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        figure.savefig(unfinished, format=path.suffix.removeprefix("."))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def draw_accuracy(path: Path, name: str, seed: int, record: Record) -> None:
    """Draws a run's accuracy against tasks learned, over the paper's points if there are any.

    Args:
        path: where the picture goes; its ending says the format.
        name: the experiment's.
        seed: the run's.
        record: what was measured.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), layout="constrained", dpi=150)
    figure.suptitle(f"{name}, seed {seed}", fontsize="medium")
    axes = figure.subplots()
    if name in ACCURACIES:
        label = f"paper, task {_look(name).identity}"
        axes.plot(*zip(*ACCURACIES[name].items(), strict=True), "xk", markersize=9, label=label)
    _plot_accuracy(axes, record)
    save(figure, path)


def draw_run(
    path: Path,
    title: str,
    record: Record,
    gradients: Float[np.ndarray, "images tasks"],
    tasks: Sequence[int],
) -> None:
    """Draws a run in one picture: accuracy against tasks learned, and the α-derivatives of a few images.

    Args:
        path: where the picture goes; its ending says the format.
        title: stands above it.
        record: what was measured.
        gradients: derivatives of the objective with respect to every task's α, for each image.
        tasks: the tasks to which these images belong.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=150)
    figure.suptitle(title)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.1))[0]
    _plot_accuracy(left.subplots(), record)

    panels = right.subplots(len(tasks), 1, sharex=True, squeeze=False)[:, 0]
    for panel, gradient, task in zip(panels, gradients, tasks, strict=True):
        bars = panel.bar(np.arange(len(gradient)), gradient, facecolor=GREY)
        bars[task].set(facecolor=ORANGE, edgecolor="black", hatch="///")
        panel.axhline(0, color="black", linewidth=0.8)
        picked = int(np.argmin(gradient))
        verdict = "inferred" if picked == task else f"task {picked} inferred"
        panel.set_title(f"an image of task {task}: {verdict}", fontsize="small", loc="left")
        panel.margins(x=0.01)
    panels[-1].set_xlabel("task i (the image's own: hatched)")
    right.supylabel("∂ objective / ∂αᵢ", fontsize="medium")
    save(figure, path)


def _plot_accuracy(axes: Any, record: Record) -> None:
    results = sorted(record.evaluations, key=lambda result: result.num_tasks)
    learned = [result.num_tasks for result in results]
    for name, label, style, colour in (
        ("given", "task given", "o-", BLUE),
        ("inferred", "task inferred, once a batch", "s--", ORANGE),
        ("inferred_per_image", "task inferred, every image", "^:", GREEN),
    ):
        if results and getattr(results[0], name) is None:
            continue
        means = [100 * np.mean(getattr(result, name)) for result in results]
        axes.plot(learned, means, style, color=colour, label=label, markerfacecolor="none")
    low, high = axes.get_ylim()
    high = min(high, 100.0)
    axes.set_ylim(min(low, high - 5), high + 0.2)  # differences of a fraction of a point are not to look like cliffs
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="tasks learned", ylabel="mean accuracy over tasks learned (%)", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
