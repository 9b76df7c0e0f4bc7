"""The numbers in the paper (Wortsman et al., 2020).

Sections and figures are numbered as in the camera-ready version; in arXiv v1 and the original repository, numbers of
figures are higher by one.
"""

from typing import Literal, NamedTuple

from supsup_jax.runs.tables import Identity

LENET_250, FC_250, LENET_2500 = (f"GNu/MNISTPerm/{name}-tasks" for name in ("LeNet-250", "FC-250", "LeNet-2500"))
MNISTROTATE = "GNu/MNISTRotate"
HOPSUPSUP = "GNu/SplitMNIST/hopsupsup"
NNS = "NNs/supsup"
SPLITIMAGENET = "GG/splitimagenet/rn50-"
SPLITCIFAR100 = "GG/splitcifar100"

SEEDS = 5
"""Number of seeds of an error bar in the paper: seeds 0 to 4 in the original's notebook."""

Source = Literal["text", "table", "picture", "slope"]
"""Source of a number: printed in the text or a table, read off a figure, or extrapolated from the slope of a line that
leaves the figure."""

PRECISION: dict[Source, float] = {"text": 0.005, "table": 0.005, "picture": 0.05, "slope": 1.0}
"""Precision of a number in percentage points, by its source."""


class Point(NamedTuple):
    """One accuracy of the paper.

    Attributes:
        accuracy: accuracy in %.
        deviation: error bar, if there is one: the standard deviation over `SEEDS` seeds.
        source: source of the number.
        is_limit: whether the number is only an upper limit, because the curve leaves the figure.
    """

    accuracy: float
    deviation: float | None = None
    source: Source = "picture"
    is_limit: bool = False

    def __str__(self) -> str:
        if self.is_limit or self.source == "slope":
            return f"{'<' if self.is_limit else '≈'} {self.accuracy:g}"
        return f"{self.accuracy:.2f}" + (f" ± {self.deviation:.2f}" if self.deviation else "")


def _curve(points: dict[int, float | Point]) -> dict[int, Point]:
    """Convert plain numbers, which were read off a figure, to points; keys are numbers of tasks learned."""
    return {tasks: value if isinstance(value, Point) else Point(value) for tasks, value in points.items()}


POINTS: dict[str, dict[int, Point]] = {
    f"{SPLITCIFAR100}/rn18-lowerbound": _curve({20: Point(24.5, source="text")}),
    # Figure 3, left.
    f"{LENET_250}/upper_bound": _curve({10: 94.94, 50: 95.01, 100: 94.99, 150: 94.96, 200: 94.91, 250: 94.87}),
    f"{LENET_250}/supsup_h": _curve({10: 93.67, 50: 93.68, 100: 93.68, 150: 93.66, 200: 93.65, 250: 93.63}),
    f"{LENET_250}/supsup_g": _curve({10: 93.67, 50: 93.68, 100: 93.68, 150: 93.66, 200: 93.65, 250: 93.63}),
    f"{LENET_250}/batche": _curve({10: 88.86, 50: 88.33, 100: 88.23, 150: 88.23, 200: 88.22, 250: 88.21}),
    f"{LENET_250}/psp": _curve({10: Point(94.8, 0.12), 50: Point(83.5, source="slope")}),
    # Figure 3, right.
    f"{FC_250}/upper_bound": _curve({10: 96.76, 50: 96.70, 100: 96.68, 150: 96.66, 200: 96.64, 250: 96.61}),
    f"{FC_250}/supsup_h": _curve({10: 96.28, 50: 96.17, 100: 96.05, 150: 95.96, 200: 95.93, 250: 95.67}),
    f"{FC_250}/supsup_g": _curve({10: 96.28, 50: 96.17, 100: 96.05, 150: 95.96, 200: 95.93, 250: 95.91}),
    f"{FC_250}/batche": _curve({10: 92.84, 50: 92.40, 100: 92.36, 150: 92.34, 200: 92.33, 250: 92.32}),
    f"{FC_250}/psp": _curve({10: Point(97.16, 0.08), 50: 94.74, 100: 87.77, 150: Point(88.0, is_limit=True)}),
    # Figure 4.
    f"{LENET_2500}/upper_bound": _curve({10: 94.71, 2500: 94.71}),
    f"{LENET_2500}/supsup_h": _curve({10: 93.5, 500: 93.5, 1000: 93.5, 1500: 93.5, 2000: 93.5, 2500: 93.45}),
    f"{LENET_2500}/supsup_g": _curve({10: 93.5, 500: 93.5, 1000: 93.5, 1500: 93.5, 2000: 93.5, 2500: 93.45}),
    f"{LENET_2500}/lower_bound": _curve(
        {
            1: Point(94.78, 0.07),
            2: 92.3,
            4: 87.97,
            5: 84.97,
            10: Point(72.2, 1.4),
            15: Point(63.4, 1.2),
            20: Point(59.7, 1.2),
            30: Point(50.3, 0.8),
            50: Point(42.1, 1.7),
            100: 31.7,
        }
    ),
    NNS: _curve({10: 93.59, 500: 93.49, 1000: 93.47, 1500: 93.46, 2000: 93.45, 2500: Point(92.54, 0.42)}),
    # Section 3.5.
    HOPSUPSUP: _curve({5: Point(97.43, source="text")}),
}
"""Accuracies by the name of the curve and the number of tasks learned."""

SPLITIMAGENET_TABLE: dict[tuple[str, float | None], tuple[float, float]] = {
    ("upperbound", None): (92.55, 10222.81),
    ("supsup", 16.0): (89.58, 195.18),
    ("supsup", 8.0): (88.68, 100.98),
    ("supsup", 4.0): (86.37, 65.50),
    ("batche", None): (81.50, 124.99),
}
"""The table in Figure 2, left: accuracy in % after 100 tasks, and megabytes, by script and scale of densities."""


class Measurement(NamedTuple):
    """The measurement that gives a curve's points.

    Attributes:
        run: name of the experiment whose runs measure them.
        identity: the kind of accuracy: with the task given or inferred, or right after learning.
    """

    run: str
    identity: Identity


def measurement(curve: str) -> Measurement:
    """Return the experiment and the kind of accuracy that a curve of the paper shows.

    The upper and the lower bound on MNIST are measured in the same runs, of the experiment `bounds`. SupSup infers the
    task, except in scenario GG, and BatchE in `batche_one_shot`; the other methods are given the task.
    """
    folder, _, script = curve.rpartition("/")
    if script in ("upper_bound", "lower_bound"):
        return Measurement(f"{folder}/bounds", "learned" if script == "upper_bound" else "given")
    infers = script in ("supsup", "supsup_h", "supsup_g", "batche_one_shot", "hopsupsup", "ablation")
    return Measurement(curve, "inferred" if infers else "given")


def curves_of(run: str) -> list[str]:
    """Return the names of the curves that runs of an experiment measure."""
    folder, _, script = run.rpartition("/")
    return [f"{folder}/upper_bound", f"{folder}/lower_bound"] if script == "bounds" else [run]
