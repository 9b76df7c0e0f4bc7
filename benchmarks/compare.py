"""Runs formulations of the same work in separate processes, in turn, and compares them.

Since machines drift, each round measures the machine's peak rates and then runs every formulation once. The ratios
within a round are compared. Memory is the peak of the process, or of a process that it starts.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

COLUMNS = ("seconds", "times the first row's", "share of the floor", "first call, s", "peak memory")

Call = Callable[[], Any]
"""The call that is timed. If it returns a dictionary, it is recorded with the times."""


@dataclass(frozen=True)
class Formulation:
    """One way to do the work of a case.

    Attributes:
        prepare: does the setup, which is not timed, and returns the call to time.
        part: the fraction of the case's work that one call does.
        once: whether it is called only once; `prepare` then does everything that would make a second call faster.
    """

    prepare: Callable[[], Call]
    part: float = 1.0
    once: bool = False


@dataclass(frozen=True)
class Case:
    """Work that is done in several ways, which are compared with the first one.

    Attributes:
        name: the name of the case.
        work: the amount of work, in units.
        unit: the unit, such as "steps".
        formulations: the formulations by name.
        operations: the minimum number of floating-point operations.
        num_bytes: the minimum number of bytes moved from or to memory.
    """

    name: str
    work: float
    unit: str
    formulations: dict[str, Formulation]
    operations: float = 0.0
    num_bytes: float = 0.0

    def floor(self, peak: dict[str, float]) -> float:
        """Return the minimum seconds of any formulation, given the machine's peak rates."""
        return max(self.operations / peak["operations"], self.num_bytes / peak["bytes"])


@dataclass
class Row:
    """Measurements of a formulation in every round.

    Attributes:
        case: the case.
        name: the name of the formulation.
        seconds: time for the whole work of the case.
        ratios: ratio of the time to the first formulation's in the same round.
        shares: ratio of the floor to the time; 1 is the optimum.
        first: seconds to prepare and do the work once, with imports and compilation.
        memory: peak memory of the process, in bytes.
        peaks: the machine's peak rates.
        notes: further values that the calls returned.
        missing: the reason if it was not measured.
    """

    case: Case
    name: str
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    peaks: list[dict[str, float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    missing: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        plain = {key: value for key, value in vars(self).items() if key != "case"}
        about = {"case": self.case.name, "work": self.case.work, "unit": self.case.unit}
        return {**about, "operations": self.case.operations, "bytes": self.case.num_bytes, **plain}


def measure(formulation: Formulation, seconds: float) -> dict[str, Any]:
    """Time a formulation in this process: the median of calls over some seconds, after one call to warm up."""
    started = time.perf_counter()
    call = formulation.prepare()
    result = None if formulation.once else call()
    first = time.perf_counter() - started
    times = []
    while not times or (sum(times) < seconds and not formulation.once):
        started = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - started)
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak = most * (1 if sys.platform == "darwin" else 1024)
    notes = result if isinstance(result, dict) else {}
    return {"seconds": statistics.median(times) / formulation.part, "first": first, "memory": float(peak), **notes}


def fastest(call: Call) -> float:
    """Return the shortest time of five calls, in seconds, after one call to warm up."""
    call()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def product_rate(size: int = 3000, dtype: str = "float32", precision: str = "highest") -> float:
    """Return the operations per second of a product of two square matrices.

    Args:
        size: the number of rows and columns.
        dtype: the type of the matrices.
        precision: the precision of the product, as in `jax.numpy.matmul`.
    """
    import jax
    import jax.numpy as jnp

    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    return 2 * size**3 / fastest(lambda: jax.block_until_ready(product(matrix)))


def sum_rate(length: int = 10**8) -> float:
    """Return the bytes per second that a sum of `length` float32 numbers reads."""
    import jax
    import jax.numpy as jnp

    vector, total = jnp.ones(length), jax.jit(jnp.sum)
    return 4 * length / fastest(lambda: jax.block_until_ready(total(vector)))


def peak() -> dict[str, float]:
    """Return this machine's peak rates per second: operations of a float32 matrix product, and bytes of a large sum."""
    return {"operations": product_rate(), "bytes": sum_rate()}


def in_child(*arguments: str) -> dict[str, Any]:
    """Run this program in a separate process, and return what it measures.

    Raises:
        RuntimeError: with the last line of its output, if it failed.
    """
    child = subprocess.run([sys.executable, sys.argv[0], *arguments], capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError((child.stderr.strip().splitlines() or ["it ended without a message"])[-1])
    return json.loads(child.stdout.splitlines()[-1])


def compare(suite: str, cases: Sequence[Case], rounds: int, longest: float) -> Iterator[Row]:
    """Measure cases, each formulation in a separate process, started with `--child SUITE CASE FORMULATION`.

    Args:
        suite: the name of the file with the cases.
        cases: the cases to measure.
        rounds: how often each formulation runs.
        longest: cases with a floor above this number of seconds are skipped.
    """
    for number, case in enumerate(cases):
        rows = [Row(case, name) for name in case.formulations]
        for _ in range(rounds):
            at_most = in_child("--child", "peak")
            floor, base = case.floor(at_most), None
            for row in rows:
                if floor > longest:
                    row.missing = f"skipped: at least {floor:.0f} s"
                if row.missing:
                    continue
                try:
                    result = in_child("--child", suite, str(number), row.name)
                except RuntimeError as error:
                    row.missing = f"skipped: {error}"
                    continue
                base = base or result["seconds"]
                row.seconds.append(result.pop("seconds"))
                row.first.append(result.pop("first"))
                row.memory.append(result.pop("memory"))
                row.ratios.append(row.seconds[-1] / base)
                row.shares.append(floor / row.seconds[-1])
                row.peaks.append(at_most)
                row.notes = result
        yield from rows


def spread(values: Sequence[float], form: str) -> str:
    """Return the median, with the minimum and the maximum if there are several values."""
    middle = format(statistics.median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table of rows for each case."""
    lines = []
    for row in rows:
        if not lines or row.case is not case:
            case = row.case
            names = ["", f"{case.unit}/s", *COLUMNS]
            lines.append(f"\n### {case.name}\n")
            if row.peaks and any(row.shares):
                rates = [statistics.median(peak[name] for peak in row.peaks) / 1e9 for name in ("operations", "bytes")]
                floor = statistics.median(case.floor(peak) for peak in row.peaks)
                lines.append(f"Floor: {floor:.3g} s, at {rates[0]:.0f} GFLOP/s and {rates[1]:.0f} GB/s.\n")
            lines += [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
        if row.missing:
            lines.append(f"| {row.name} | {row.missing} | | | | | |")
            continue
        middle = statistics.median(row.seconds)
        share = f"{100 * statistics.median(row.shares):.0f} %" if any(row.shares) else ""
        notes = "".join(f"; {key} {value:,.0f}" for key, value in row.notes.items())
        cells = [
            row.name,
            f"{case.work / middle:,.2f}" if case.work / middle < 10 else f"{case.work / middle:,.0f}",
            spread(row.seconds, ".3g") + notes,
            spread(row.ratios, ".2f"),
            share,
            f"{statistics.median(row.first):.1f}",
            f"{statistics.median(row.memory) / 2**20:,.0f} MB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
