"""Pictures of results, legible in print and without colour vision."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from supsup_jax.results import Record

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"


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

    axes = left.subplots()
    results = sorted(record.evaluations, key=lambda result: result.num_tasks)
    learned = [result.num_tasks for result in results]
    for name, label, style, colour in (
        ("given", "task given", "o-", BLUE),
        ("inferred", "task inferred, once a batch", "s--", ORANGE),
        ("inferred_per_image", "task inferred, every image", "^:", GREEN),
    ):
        axes.plot(
            learned,
            [100 * np.mean(getattr(result, name)) for result in results],
            style,
            color=colour,
            label=label,
            markerfacecolor="none",
        )
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high - 10), high)  # differences of a fraction of a point are not to look like cliffs
    axes.set(xlabel="tasks learned", ylabel="mean accuracy over tasks learned (%)", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")

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
