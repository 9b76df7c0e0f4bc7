"""Picture of the results of `scale.py`: seconds an image against the number of tasks, with the floor of each search."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOT_DRAWN = "one_shot, counting at each call"
"""A search that the table contains, and whose line would hide that of `one_shot`."""

DASHED: dict[str, Any] = {"linestyle": "--", "marker": "_", "linewidth": 1}

COLD, WARM = ", cold page cache", ", warm page cache"


def points(results: list[dict[str, Any]]) -> Iterator[tuple[str, int, float, float | None]]:
    """Yield the search, number of tasks, seconds an image and floor of each measurement of single images.

    Args:
        results: results of `scale.py`, in memory and on disk.
    """
    for result in results:
        for row in result["rows"]:
            if "cache" in row:
                name = f"shortlist on disk, share 1/{round(1 / row['share'])}{WARM if row['cache'] == 'warm' else COLD}"
            elif row["images"] == row.get("at_once", 1) == 1 and row["search"] != NOT_DRAWN:
                name = f"{row['search']} in memory"
            else:
                continue
            yield name, result["tasks"], row["seconds"], row.get("floor")


def draw(results: list[dict[str, Any]], path: Path) -> bool:
    """Draw the results, if matplotlib is installed.

    Args:
        results: results of `scale.py`, in memory and on disk.
        path: the file to write.

    Returns:
        Whether the picture was written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib.pyplot as plt

    lines: dict[str, list[tuple[int, float, float | None]]] = {}
    for name, tasks, seconds, floor in sorted(points(results), key=lambda point: point[1]):
        lines.setdefault(name, []).append((tasks, seconds, floor))
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    colors: dict[str, str] = {}  # the same one with a cold and a warm cache
    for name, found in lines.items():
        searched, is_warm = name.removesuffix(WARM).removesuffix(COLD), name.endswith(WARM)
        color = colors.setdefault(searched, f"C{len(colors)}")
        tasks, seconds, _ = zip(*found, strict=True)
        axes.loglog(tasks, seconds, color=color, marker="o", markerfacecolor="white" if is_warm else color, label=name)
        if floors := [(count, floor) for count, _, floor in found if floor]:
            axes.loglog(*zip(*floors, strict=True), color=color, **DASHED)
    axes.plot([], [], **DASHED, color="gray", label="floor: the bytes read, at the measured bandwidth")
    axes.set(xlabel="tasks", ylabel="seconds an image")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True
