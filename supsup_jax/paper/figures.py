"""Figures of a run, and the paper's figures from many runs, legible in print and without colour vision."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from supsup_jax.errors import UserError
from supsup_jax.paper.ablation import draw_ablation
from supsup_jax.paper.drawing import default_style
from supsup_jax.paper.looks import BLUE, GREEN, GREY, LOOKS, ORANGE, PAPER, PURPLE, look_of, plot_curve
from supsup_jax.paper.published import (
    FC_250,
    HOPSUPSUP,
    LENET_250,
    LENET_2500,
    MNISTROTATE,
    NNS,
    POINTS,
    SPLITCIFAR100,
    Identity,
    Point,
    curves_of,
    measurement,
)
from supsup_jax.runs.records import Record, check_of, error_of_mean, sample_in_words
from supsup_jax.runs.tables import (
    ABLATION,
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

_METHODS = ("upper_bound", "supsup", "supsup_h", "supsup_g", "batche", "psp", "lower_bound")

_FIGURES = {
    "figure3": (
        "MNISTPerm, 250 tasks (Figure 3)",
        {
            "left: LeNet 300-100": [f"{LENET_250}/{method}" for method in _METHODS],
            "right: FC 1024-1024": [f"{FC_250}/{method}" for method in _METHODS],
        },
    ),
    "figure4": (
        "MNISTPerm, 2,500 tasks (Figure 4)",
        {"LeNet 300-100": [*(f"{LENET_2500}/{method}" for method in _METHODS), NNS]},
    ),
    "figure5": (
        "MNISTRotate, 36 tasks (Figure 5)",
        {"FC 1024-1024": [f"{MNISTROTATE}/{method}" for method in (*_METHODS, "batche_one_shot")]},
    ),
}
# Largest number of tasks with a linear axis; beyond, it is logarithmic.
_MOST_ON_LINEAR_AXIS = 300

_SPLITCIFAR100 = [f"{SPLITCIFAR100}/{name}" for name in LOOKS if name.startswith("rn18-")]
SHOWN = {
    HOPSUPSUP,
    ABLATION,
    *_SPLITCIFAR100,
    *(measurement(curve).run for _, panels in _FIGURES.values() for curves in panels.values() for curve in curves),
}
"""The experiments that a figure shows."""


_MEANING: dict[Identity, str] = {
    "given": "task given",
    "inferred": "task inferred",
    "learned": "right after learning",
}


def accuracy_curve(curve: str, runs: Sequence[Run]) -> Curve:
    """Return accuracy against tasks learned, for a curve of the paper.

    Args:
        curve: name of the curve.
        runs: runs of the experiment that measures it, with different seeds.

    Raises:
        UserError: if other settings differ, or a run did not measure the accuracy that the figure shows.
    """
    check_settings(runs)
    identity = measurement(curve).identity
    for run in runs:
        if not run.accuracies[identity]:
            problem = "has no accuracy of each task right after it was learned"
            if identity != "learned":
                problem = f"was not evaluated with the task {identity}"
            raise UserError(f"{run.folder} {problem}; leave this run out")
    return over_seeds([run.accuracies[identity] for run in runs])


@default_style()
def draw_paper(runs: Iterable[Run]) -> dict[str, "matplotlib.figure.Figure"]:
    """Draw the figures of the paper for which there are runs, and return them by file name.

    Args:
        runs: one run for each experiment and seed.

    Raises:
        UserError: if no figure shows these runs, their settings differ, or a measurement is missing.
    """
    of_name: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        of_name[run.name].append(run)
    if of_name.keys().isdisjoint(SHOWN):
        raise UserError(
            f"no figure of the paper shows {', '.join(sorted(of_name))}; give runs of the scripts in experiments/GG, "
            "experiments/GNu or experiments/NNs; the picture of another run is accuracy.png in its folder"
        )
    pictures = {}
    if points := {name: storage_points(of_name[name]) for name in _SPLITCIFAR100 if name in of_name}:
        pictures["figure2"] = _draw_storage(points)
    for file, (title, panels) in _FIGURES.items():
        drawn = {
            panel: {
                curve: accuracy_curve(curve, of_name[run])
                for curve in curves
                if (run := measurement(curve).run) in of_name
            }
            for panel, curves in panels.items()
        }
        if any(drawn.values()):
            pictures[file] = _draw_accuracies(title, {panel: curves for panel, curves in drawn.items() if curves})
    if ABLATION in of_name:
        pictures["figure6"] = draw_ablation(of_name[ABLATION], of_name)
    if HOPSUPSUP in of_name:
        check_settings(of_name[HOPSUPSUP])
        pictures["recovery"] = draw_recovery([run.folder for run in of_name[HOPSUPSUP]])
    return pictures


def _draw_storage(curves: Mapping[str, Sequence[StoragePoint]]) -> "matplotlib.figure.Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 5.6), layout="constrained", dpi=200)
    figure.suptitle("SplitCIFAR100, GG (Figure 2, right)")
    axes = figure.subplots()
    for name, points in curves.items():
        look, ordered = look_of(name), sorted(points)
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
    """Draw the curves of one network; curves that drop far are drawn in a panel below with a coarser scale."""
    published = {name: POINTS.get(name, {}) for name in curves}
    points = {
        name: [*curve.mean, *(point.accuracy for point in published[name].values())] for name, curve in curves.items()
    }
    kept = [value for name, values in points.items() if not look_of(name).forgets for value in values]
    lowest, highest = (bound(value for values in points.values() for value in values) for bound in (min, max))
    # Show at least 4 points, so that differences of a fraction of a point look small.
    floor = math.floor(min(min(kept, default=lowest) - 0.3, highest - 4))
    if lowest < floor:
        upper, lower = column.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        lower.set(ylim=(0, floor), facecolor="0.95", yticks=range(0, floor - 10, 25))
        lower.set_title(f"below {floor} %, on a different scale", fontsize="small", loc="right", pad=3)
        axes = [upper, lower]
    else:
        axes = [column.subplots()]
    axes[0].set(title=heading, ylim=(floor, highest + 0.3))
    axes[-1].set(xlabel="tasks learned")
    if max(at for name, curve in curves.items() for at in (*curve.at, *published[name])) > _MOST_ON_LINEAR_AXIS:
        axes[-1].set_xscale("log")
        axes[-1].xaxis.set_major_formatter("{x:,.0f}")
    else:
        axes[-1].xaxis.get_major_locator().set_params(integer=True)
    column.supylabel("mean accuracy over tasks learned (%)", fontsize="medium")
    for panel in axes:
        low, high = panel.get_ylim()
        panel.grid(alpha=0.3)
        for name, curve in curves.items():
            if min(points[name]) > high:
                continue
            look = look_of(name)
            inside = {at: point for at, point in published[name].items() if low <= point.accuracy <= high}
            _plot_paper(panel, inside, look.marker)
            plot_curve(panel, curve, look, look.label, [low <= value <= high for value in curve.mean])
    if any(published.values()):
        axes[0].plot([], [], marker="o", label="paper (black, same shape)", **PAPER)
    handles, labels = axes[0].get_legend_handles_labels()
    column.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small", handlelength=4)


def _plot_paper(axes: Any, points: Mapping[int, Point], marker: str) -> None:
    """Draw points of the paper, with an arrow down instead of a marker for an upper limit."""
    known = {at: point for at, point in points.items() if not point.is_limit}
    axes.plot(list(known), [point.accuracy for point in known.values()], marker=marker, **PAPER)
    for at, point in known.items():
        if point.deviation:
            axes.errorbar(at, point.accuracy, point.deviation, capsize=3, color="black")
    for at, point in points.items():
        if point.is_limit:
            axes.annotate("", (at, point.accuracy - 6), (at, point.accuracy), arrowprops={"arrowstyle": "->"})


@default_style()
def draw_recovery(folders: Sequence[Path]) -> "matplotlib.figure.Figure":
    """Draw the recovery of the masks of HopSupSup's tasks in the last evaluation.

    Args:
        folders: folders of runs with different seeds.

    Raises:
        UserError: if a run's table is damaged.
    """
    from matplotlib.figure import Figure

    seeds = [read_recovery(folder / "recovery.csv") for folder in folders]
    figure = Figure(figsize=(11, 4.4), layout="constrained", dpi=200)
    figure.suptitle("SplitMNIST: HopSupSup recovers the mask of each task from a memory (Section 3.5)")
    panels = figure.subplots(1, 3, sharex=True)
    looks = list(dict.fromkeys(LOOKS.values()))
    headings = "Hamming distance to the task's mask", "energy of the memory", "entropy of the outputs (nats)"
    for quantity, (axes, heading) in enumerate(zip(panels, headings, strict=True)):
        for task in sorted(set().union(*seeds)):
            path = over_seeds([seed[task][quantity] for seed in seeds if task in seed])
            marked = (task % 5, 5)  # markers of different tasks are at different steps
            plot_curve(axes, path, looks[task % len(looks)], f"task {task}", marked)
        axes.axvline(30, color="black", linestyle="--", linewidth=1, label="paper: recovered before step 30")
        axes.set(title=heading, xlabel="gradient step")
        axes.title.set_fontsize("medium")
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small", handlelength=4)
    return figure


@default_style()
def save(figure: "matplotlib.figure.Figure", path: Path) -> None:
    """Write a figure atomically, in the format of the path's suffix."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        figure.savefig(unfinished, format=path.suffix.removeprefix("."))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@default_style()
def draw_accuracy(path: Path, name: str, seed: int, record: Record) -> None:
    """Draw a run's accuracy against tasks learned, with the paper's points if there are any.

    Args:
        path: file to write, in the format of its suffix.
        name: name of the experiment.
        seed: seed of the run.
        record: the run's measurements.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), layout="constrained", dpi=150)
    figure.suptitle(f"{name}, seed {seed}", fontsize="medium")
    axes = figure.subplots()
    curves = curves_of(name)
    for curve, style in zip(curves, ("xk", "+k"), strict=False):
        points = {at: point.accuracy for at, point in POINTS.get(curve, {}).items() if not point.is_limit}
        if points:
            axes.plot(
                *zip(*points.items(), strict=True),
                style,
                markersize=9,
                label=f"paper, {_MEANING[measurement(curve).identity]}",
            )
    _plot_accuracy(axes, record, with_learned=any(measurement(curve).identity == "learned" for curve in curves))
    save(figure, path)


@default_style()
def draw_run(
    path: Path,
    title: str,
    record: Record,
    gradients: Float[np.ndarray, "images tasks"],
    tasks: Sequence[int],
) -> None:
    """Draw one figure of a run: accuracy against tasks learned, and the α-derivatives of a few images.

    Args:
        path: file to write, in the format of its suffix.
        title: title of the figure.
        record: the run's measurements.
        gradients: derivatives of the objective with respect to every task's α, for each image.
        tasks: the tasks of these images.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=150)
    figure.suptitle(title)
    accuracy, derivatives = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.1))[0]
    _plot_accuracy(accuracy.subplots(), record)

    panels = derivatives.subplots(len(tasks), 1, sharex=True, squeeze=False)[:, 0]
    for panel, gradient, task in zip(panels, gradients, tasks, strict=True):
        bars = panel.bar(np.arange(len(gradient)), gradient, facecolor=GREY)
        bars[task].set(facecolor=ORANGE, edgecolor="black", hatch="///")
        panel.axhline(0, color="black", linewidth=0.8)
        picked = int(np.argmin(gradient))
        verdict = "inferred" if picked == task else f"task {picked} inferred"
        panel.set_title(f"an image of task {task}: {verdict}", fontsize="small", loc="left")
        panel.margins(x=0.01)
    panels[-1].set_xlabel("task i (hatched: the task of the image)")
    derivatives.supylabel("∂ objective / ∂αᵢ", fontsize="medium")
    save(figure, path)


def _plot_accuracy(axes: Any, record: Record, with_learned: bool = False) -> None:
    results = sorted(record.evaluations, key=lambda result: result.num_tasks)
    learned = [result.num_tasks for result in results]
    if with_learned and len(record.tasks) >= learned[-1]:
        means = [100 * np.mean([task.accuracy for task in record.tasks[:count]]) for count in learned]
        axes.plot(learned, means, "v-.", color=PURPLE, label=_MEANING["learned"], markerfacecolor="none")
    for name, label, style, colour in (
        ("given", "task given", "o-", BLUE),
        ("inferred", "task inferred, once a batch", "s--", ORANGE),
        ("inferred_per_image", "task inferred, every image", "^:", GREEN),
    ):
        if results and getattr(results[0], name) is None:
            continue
        means = [100 * np.mean(getattr(result, name)) for result in results]
        axes.plot(learned, means, style, color=colour, label=label, markerfacecolor="none")
        if (errors := [getattr(result, f"{name}_error", None) for result in results]) and all(errors):
            bars = [100 * error_of_mean(error) for error in errors if error]
            axes.errorbar(learned, means, bars, fmt="none", ecolor=colour, capsize=3)
    if results and (sample := sample_in_words(results[-1].sampled)):
        axes.text(0.02, 0.02, f"task inferred: {sample}, ± standard error", fontsize="small", transform=axes.transAxes)
    if results and (check := check_of(results[-1].checked, results[-1].differing)):
        caption = f"{check} checked picks differ from the exact search"
        axes.set_title(caption, fontsize="small", loc="left")
    low, high = axes.get_ylim()
    high = min(high, 100.0)
    axes.set_ylim(min(low, high - 5), high + 0.2)  # at least 5 points, so that small differences look small
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="tasks learned", ylabel="mean accuracy over tasks learned (%)", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
