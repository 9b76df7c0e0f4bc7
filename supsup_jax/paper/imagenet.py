"""The table of SplitImageNet: accuracy and bytes of runs beside the paper's (Figure 2, left)."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from supsup_jax.errors import UserError
from supsup_jax.paper.published import SPLITIMAGENET, SPLITIMAGENET_TABLE
from supsup_jax.runs.tables import Run, StoragePoint, storage_points, tries


class ImageNetRow(NamedTuple):
    """A row of the table in Figure 2, left.

    Attributes:
        method: the paper's name of the method.
        er_scale: scale of the masks' densities, if the method has masks.
        paper: the paper's accuracy in % and megabytes, if it has this row.
        point: accuracy and megabytes of our runs, if there are any.
    """

    method: str
    er_scale: float | None
    paper: tuple[float, float] | None
    point: StoragePoint | None


_METHODS = {"upperbound": "Upper Bound", "supsup": "SupSup", "batche": "BatchE"}


def imagenet_rows(runs: Iterable[Run]) -> list[ImageNetRow]:
    """Return the rows of the table in Figure 2, left: the paper's rows, then our rows that the paper does not have.

    Of several runs with the same seed and scale, the run with the most tasks is used, then the newest.

    Raises:
        UserError: if there is no run on SplitImageNet, or settings other than seed and scale differ.
    """
    ours: dict[tuple[str, float | None], StoragePoint] = {}
    of_name: dict[str, list[Run]] = defaultdict(list)
    for group in tries(runs):
        if group[0].name.startswith(SPLITIMAGENET):
            of_name[group[0].name.removeprefix(SPLITIMAGENET)].append(
                max(group, key=lambda run: max(run.accuracies["given"]))
            )
    if not of_name:
        raise UserError(f"no run on SplitImageNet was found; give folders of runs of experiments/{SPLITIMAGENET}*.py")
    for name, same in of_name.items():
        ours |= {(name, point.er_scale): point for point in storage_points(same)}
    keys = [*SPLITIMAGENET_TABLE, *sorted(ours.keys() - SPLITIMAGENET_TABLE.keys(), key=str)]
    return [
        ImageNetRow(_METHODS.get(name, name), scale, SPLITIMAGENET_TABLE.get((name, scale)), ours.get((name, scale)))
        for name, scale in keys
    ]
