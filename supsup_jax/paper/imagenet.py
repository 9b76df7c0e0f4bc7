"""The table of SplitImageNet: accuracy and bytes of runs beside the paper's (Figure 2, left)."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from supsup_jax.errors import UserError
from supsup_jax.paper.published import SPLITIMAGENET, SPLITIMAGENET_TABLE
from supsup_jax.runs.tables import Run, StoragePoint, storage_points, tries


class ImageNetRow(NamedTuple):
    """A row of the table of Figure 2, left.

    Attributes:
        method: as the paper calls it.
        er_scale: scale of its densities, if there are any.
        paper: the paper's accuracy in % and megabytes, if it has them.
        point: ours, if there are runs.
    """

    method: str
    er_scale: float | None
    paper: tuple[float, float] | None
    point: StoragePoint | None


_METHODS = {"upperbound": "Upper Bound", "supsup": "SupSup", "batche": "BatchE"}


def imagenet_rows(runs: Iterable[Run]) -> list[ImageNetRow]:
    """The table of Figure 2, left: the paper's rows, and below them ours that it does not have.

    Of runs of one seed and scale the one with the most tasks counts, then the newest.

    Raises:
        UserError: if there is no run on SplitImageNet, or some differ in more than seed and scale.
    """
    ours: dict[tuple[str, float | None], StoragePoint] = {}
    of_name: dict[str, list[Run]] = defaultdict(list)
    for group in tries(runs):
        if group[0].name.startswith(SPLITIMAGENET):
            of_name[group[0].name.removeprefix(SPLITIMAGENET)].append(
                max(group, key=lambda run: max(run.accuracies["given"]))
            )
    if not of_name:
        raise UserError(f"there is no run on SplitImageNet; give folders of runs of experiments/{SPLITIMAGENET}*.py")
    for name, same in of_name.items():
        ours |= {(name, point.er_scale): point for point in storage_points(same)}
    keys = [*SPLITIMAGENET_TABLE, *sorted(ours.keys() - SPLITIMAGENET_TABLE.keys(), key=str)]
    return [
        ImageNetRow(_METHODS.get(name, name), scale, SPLITIMAGENET_TABLE.get((name, scale)), ours.get((name, scale)))
        for name, scale in keys
    ]
