"""Figure 6: accuracy for different numbers of outputs, for both objectives and both networks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from supsup_jax.paper.looks import AMBER, BLUE, GREEN, ORANGE, PURPLE, SKY, Look, look_of, plot_curve
from supsup_jax.paper.published import FC_250, LENET_250, measurement
from supsup_jax.runs.tables import Curve, Run, check_settings, over_seeds

if TYPE_CHECKING:
    import matplotlib.figure

_PANELS = {"LeNet": ("LeNet 300-100", LENET_250), "FC1024": ("FC 1024-1024", FC_250)}
"""Heading, and folder of the scripts of the bounds, by network."""

_COLOURS = {25: ORANGE, 100: BLUE, 200: GREEN}
_FURTHER_COLOURS = (SKY, PURPLE, AMBER)
_OBJECTIVES = {"entropy": ("H", "-", "o"), "superfluous": ("G", "--", "s")}
"""Symbol, line style and marker of each objective."""


def draw_ablation(runs: Sequence[Run], of_name: Mapping[str, Sequence[Run]]) -> "matplotlib.figure.Figure":
    """Draw accuracy against tasks learned: colours show the number of outputs, line styles the objective.

    Args:
        runs: runs of the ablation with different networks, numbers of outputs, objectives or seeds.
        of_name: runs of all experiments by name, for the bounds.

    Raises:
        UserError: if other settings differ.
    """
    from matplotlib.figure import Figure

    of_variant: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.experiment["features"], run.experiment["objective"])):
        of_variant[run.variant].append(run)
    drawn = [network for network in _PANELS if any(network == variant[0] for variant in of_variant)]
    further = sorted({variant[1] for variant in of_variant} - _COLOURS.keys())
    colours = _COLOURS | {count: _FURTHER_COLOURS[i % len(_FURTHER_COLOURS)] for i, count in enumerate(further)}

    figure = Figure(figsize=(1 + 5.2 * len(drawn), 5.6), layout="constrained", dpi=200)
    figure.suptitle("MNISTPerm, SupSup with the task inferred:\nnumber of outputs s and objective (Figure 6)")
    for axes, network in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        heading, folder = _PANELS[network]
        counts: set[int] = set()
        for (of_network, outputs, objective), same in of_variant.items():
            if of_network == network:
                check_settings(same)
                curve = over_seeds([run.accuracies["inferred"] for run in same])
                symbol, line, marker = _OBJECTIVES[objective]
                look = Look(f"s = {outputs}, {symbol}", colours[outputs], marker, line)
                plot_curve(axes, curve, look, look.label, 1)
                counts |= set(curve.at)
        lowest = axes.get_ylim()[0]
        for bound in ("upper_bound", "lower_bound"):
            curve = _reference(f"{folder}/{bound}", of_name, sorted(counts))
            if curve and max(curve.mean) > lowest:
                plot_curve(axes, curve, look_of(bound), look_of(bound).label, 1)
        axes.set_ylim(bottom=lowest)
        axes.set(title=heading, xlabel="tasks learned", ylabel="mean accuracy over tasks learned (%)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize="small", handlelength=4)
    return figure


def _reference(name: str, of_name: Mapping[str, Sequence[Run]], counts: Sequence[int]) -> Curve | None:
    """Return a bound's curve at the numbers of tasks in `counts` where it was measured; `None` without runs."""
    name_of_runs, identity = measurement(name)
    seeds = [
        {at: value for at in counts if (value := run.accuracy(identity, at)) is not None}
        for run in of_name.get(name_of_runs, ())
    ]
    return over_seeds(seeds) if any(seeds) else None
