"""Runs formulations of the same thing in processes of their own, in turn, and prints them side by side.

A formulation is a function that prepares everything and returns what is to be timed. Machines drift, so each round
runs every formulation once, and what is compared are the ratios within a round. Memory is the peak of the process.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from math import nan

from rich.console import Console
from rich.table import Table

Formulation = Callable[[], Callable[[], object]]


def measure(prepare: Formulation, seconds: float = 3.0) -> dict[str, float]:
    """Times one formulation in this process: the median of calls over some seconds, after one call to warm up."""
    started = time.perf_counter()
    call = prepare()
    call()
    first = time.perf_counter() - started
    times = []
    while not times or sum(times) < seconds:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": statistics.median(times), "first": first, "memory": float(peak)}


def main(title: str, formulations: dict[str, Formulation], work: float, unit: str, rounds: int = 3) -> None:
    """Prints a table of all formulations; the first one is what the others are compared with.

    Args:
        title: stands above the table.
        formulations: by name.
        work: how much one call does, in `unit`s.
        unit: what is counted, e.g. steps.
        rounds: how often each formulation runs.
    """
    if len(sys.argv) == 3 and sys.argv[1] == "--only":
        if sys.argv[2] in formulations:
            print(json.dumps(measure(formulations[sys.argv[2]])))
        return
    results: dict[str, dict[int, dict[str, float]]] = {name: {} for name in formulations}
    for number in range(rounds):
        for name in formulations:
            child = subprocess.run([sys.executable, sys.argv[0], "--only", name], capture_output=True, text=True)
            if child.returncode:
                print(f"{name}: left out ({child.stderr.strip().splitlines()[-1]})", file=sys.stderr)
            else:
                results[name][number] = json.loads(child.stdout.splitlines()[-1])
    table = Table(
        "formulation", f"{unit}/s", "seconds", "first call", "times the first row", "peak memory", title=title
    )
    base = results[next(iter(formulations))]
    for name, runs in results.items():
        if not runs:
            continue
        ratios = [run["seconds"] / base[number]["seconds"] for number, run in runs.items() if number in base] or [nan]
        middle = {key: statistics.median(run[key] for run in runs.values()) for key in ("seconds", "first", "memory")}
        table.add_row(
            name,
            f"{work / middle['seconds']:,.1f}",
            f"{middle['seconds']:.3f}",
            f"{middle['first']:.1f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{middle['memory'] / 2**20:,.0f} MB",
        )
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
