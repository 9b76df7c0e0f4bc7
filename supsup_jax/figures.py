"""Pictures of results, legible in print and without colour vision."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from supsup_jax.results import Record

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"


# Accuracy in % after so many tasks, read off the published figures to about 0.05 points.
_LENET_250 = {10: 93.67, 50: 93.68, 100: 93.68, 150: 93.66, 200: 93.65, 250: 93.63}
_FC_250 = {10: 96.28, 50: 96.17, 100: 96.05, 150: 95.96, 200: 95.93, 250: 95.79}
_LENET_2500 = {10: 93.5, 500: 93.5, 1000: 93.5, 1500: 93.5, 2000: 93.5, 2500: 93.45}
PUBLISHED = {
    f"GNu/MNISTPerm/{folder}/supsup_{objective}": points
    for folder, points in (
        ("LeNet-250-tasks", _LENET_250),
        ("FC-250-tasks", _FC_250),
        ("LeNet-2500-tasks", _LENET_2500),
    )
    for objective in "hg"
}
"""The paper's points for SupSup with the task inferred (GNu), by the name of the experiment."""


def draw_accuracy(path: Path, title: str, record: Record, published: Mapping[int, float] | None = None) -> None:
    """Draws accuracy against tasks learned, over the paper's points if there are any.

    Args:
        path: where the picture goes; its ending says the format.
        title: stands above it.
        record: what was measured.
        published: accuracy in % after so many tasks.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), layout="constrained", dpi=150)
    figure.suptitle(title, fontsize="medium")
    _plot_accuracy(figure.subplots(), record, published or {})
    figure.savefig(path)


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
    _plot_accuracy(left.subplots(), record, {})

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
    figure.savefig(path)


def _plot_accuracy(axes: Any, record: Record, published: Mapping[int, float]) -> None:
    results = sorted(record.evaluations, key=lambda result: result.num_tasks)
    learned = [result.num_tasks for result in results]
    if published:
        axes.plot(*zip(*published.items(), strict=True), "x", color="black", markersize=9, label="paper, task inferred")
    for name, label, style, colour in (
        ("given", "task given", "o-", BLUE),
        ("inferred", "task inferred, once a batch", "s--", ORANGE),
        ("inferred_per_image", "task inferred, every image", "^:", GREEN),
    ):
        means = [100 * np.mean(getattr(result, name)) for result in results]
        axes.plot(learned, means, style, color=colour, label=label, markerfacecolor="none")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high - 5), high + 0.2)  # differences of a fraction of a point are not to look like cliffs
    axes.set(xlabel="tasks learned", ylabel="mean accuracy over tasks learned (%)", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
