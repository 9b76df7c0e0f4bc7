"""Runs formulations of the same thing in processes of their own, in turn, and puts them side by side.

Machines drift, so each round measures what the machine can do at most and then runs every formulation once, and what is
compared are the ratios within a round. Memory is the peak of the process, or of one that it starts.
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
"""What is timed. If it returns a dictionary, that is noted with the times."""


@dataclass(frozen=True)
class Formulation:
    """One way to do what a case does.

    Attributes:
        prepare: does what is not timed, and gives what is.
        part: which part of the case's work one call does.
        once: whether it is called only once, and all that would make a second call faster is done in `prepare`.
    """

    prepare: Callable[[], Call]
    part: float = 1.0
    once: bool = False


@dataclass(frozen=True)
class Case:
    """Something that is done in several ways, the first of which the others are compared with.

    Attributes:
        name: what it is.
        work: how many of its units it does.
        unit: what is counted, e.g. "steps".
        formulations: by name.
        operations: the least floating-point operations it takes.
        num_bytes: the least bytes that it moves from or to memory.
    """

    name: str
    work: float
    unit: str
    formulations: dict[str, Formulation]
    operations: float = 0.0
    num_bytes: float = 0.0

    def floor(self, peak: dict[str, float]) -> float:
        """The seconds below which no formulation can be, on a machine that can do so much."""
        return max(self.operations / peak["operations"], self.num_bytes / peak["bytes"])


@dataclass
class Row:
    """What was measured of a formulation, in every round.

    Attributes:
        case: the case.
        name: of the formulation.
        seconds: for the whole work of the case.
        ratios: of these to the first formulation's, in the same round.
        shares: of the floor in these, 1 being the best that there can be.
        first: seconds to prepare and do it once, with imports and compilation.
        memory: peak of the process, bytes.
        peaks: what the machine could do at most.
        notes: what else the calls returned.
        missing: why it was not measured, if it was not.
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
        """As plain data."""
        plain = {key: value for key, value in vars(self).items() if key != "case"}
        about = {"case": self.case.name, "work": self.case.work, "unit": self.case.unit}
        return {**about, "operations": self.case.operations, "bytes": self.case.num_bytes, **plain}


def measure(formulation: Formulation, seconds: float) -> dict[str, Any]:
    """Times one formulation in this process: the median of calls over some seconds, after one call to warm up."""
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
    """The shortest time of five calls, in seconds, after one call to warm up."""
    call()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def product_rate(size: int = 3000, dtype: str = "float32", precision: str = "highest") -> float:
    """Operations per second of a product of two square matrices.

    Args:
        size: their rows and columns.
        dtype: their type.
        precision: of the product, as `jax.numpy.matmul` takes it.
    """
    import jax
    import jax.numpy as jnp

    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    return 2 * size**3 / fastest(lambda: jax.block_until_ready(product(matrix)))


def sum_rate(length: int = 10**8) -> float:
    """Bytes per second that a sum of this many float32 numbers reads."""
    import jax
    import jax.numpy as jnp

    vector, total = jnp.ones(length), jax.jit(jnp.sum)
    return 4 * length / fastest(lambda: jax.block_until_ready(total(vector)))


def peak() -> dict[str, float]:
    """What this machine can do a second: operations of a product of large float32 matrices, bytes of a large sum."""
    return {"operations": product_rate(), "bytes": sum_rate()}


def in_child(*arguments: str) -> dict[str, Any]:
    """What a process of its own that runs this program measures.

    Raises:
        RuntimeError: with the last line of what it said, if it failed.
    """
    child = subprocess.run([sys.executable, sys.argv[0], *arguments], capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError((child.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return json.loads(child.stdout.splitlines()[-1])


def compare(suite: str, cases: Sequence[Case], rounds: int, longest: float) -> Iterator[Row]:
    """Measures cases, each formulation in a process of its own, started with `--child SUITE CASE FORMULATION`.

    Args:
        suite: the name of the file with the cases.
        cases: what to measure.
        rounds: how often each formulation runs.
        longest: cases whose floor is more seconds are left out.
    """
    for number, case in enumerate(cases):
        rows = [Row(case, name) for name in case.formulations]
        for _ in range(rounds):
            at_most = in_child("--child", "peak")
            floor, base = case.floor(at_most), None
            for row in rows:
                if floor > longest:
                    row.missing = f"left out: at least {floor:.0f} s"
                if row.missing:
                    continue
                try:
                    result = in_child("--child", suite, str(number), row.name)
                except RuntimeError as error:
                    row.missing = f"left out: {error}"
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
    """The median, with the smallest and the largest where there are several."""
    middle = format(statistics.median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def markdown(rows: Sequence[Row]) -> str:
    """A table of rows for each case."""
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
