"""Runs formulations of the same work in separate processes, in turn, and compares them.

Since machines drift, each round measures the machine's peak rates and then runs every formulation once. The ratios
within a round are compared. Memory is the peak of the process, or of a process that it starts; on a GPU it is the peak
of the GPU's memory.
"""

import contextlib
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

MARK = "measured: "
"""Start of the lines with results in the output of a process that measures."""

Call = Callable[[], Any]
"""The call that is timed. If it returns a dictionary, it is recorded with the times."""


@dataclass(frozen=True)
class Formulation:
    """One way to do the work of a case.

    Attributes:
        prepare: does the setup, which is not timed, and returns the call to time.
        part: the fraction of the case's work that one call does.
        once: whether it is called only once; `prepare` then does everything that would make a second call faster.
        precision: precision of its products, one of `peaks.PRODUCTS`, which determines the floor; "" if it does not do
            all of the case's work and has no floor. JAX rounds to TensorFloat-32 on a GPU unless told otherwise.
        flags: flags of XLA, which are set before its process starts.
    """

    prepare: Callable[[], Call]
    part: float = 1.0
    once: bool = False
    precision: str = "float32"
    flags: str = ""


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

    def floor(self, rates: dict[str, float], name: str) -> float:
        """Return the minimum seconds of a formulation, given the machine's peak rates."""
        precision = self.formulations[name].precision
        if not precision:
            return 0.0
        operations = rates.get(precision, rates["float32"])
        return max(self.operations / operations, self.num_bytes / rates["bytes"])


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
        memory: peak memory in bytes.
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
    notes = result if isinstance(result, dict) else {}
    return {"seconds": statistics.median(times) / formulation.part, "first": first, "memory": peak_memory(), **notes}


def release() -> None:
    """Return the memory of formulations that were measured to the GPU, which the other library's process shares."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def peak_memory() -> float:
    """Return the peak memory of this process in bytes: of its GPU's memory, or on a CPU of its own."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated())
    if jax and jax.default_backend() != "cpu":
        return float((jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", float("nan")))
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return float(most * (1 if sys.platform == "darwin" else 1024))


class Child:
    """A process of this program that measures, started with `--child` at the first request.

    Args:
        flags: flags of XLA, besides those of the environment.
    """

    def __init__(self, flags: str = "") -> None:
        self._flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"} if flags else {}
        self._process: subprocess.Popen[str] | None = None

    def ask(self, suite: str, number: int = 0, name: str = "", seconds: float = 0.0) -> dict[str, Any]:
        """Return what the process measures.

        Args:
            suite: the name of the file with the cases, or "peak" for the machine's rates.
            number: the index of the case.
            name: the name of the formulation.
            seconds: seconds for repeated calls.

        Raises:
            RuntimeError: with the last line of its output, if it failed.
        """
        if self._process is None:
            command, pipe = [sys.executable, sys.argv[0], "--child"], subprocess.PIPE
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=os.environ | self._flags
            )
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps([suite, number, name, seconds]), file=self._process.stdin, flush=True)
        last = "it ended without a message"
        for line in self._process.stdout:
            if line.startswith(MARK):
                result = json.loads(line.removeprefix(MARK))
                if "error" in result:
                    raise RuntimeError(result["error"])
                return result
            last = line.strip() or last
        self.close()
        raise RuntimeError(last)

    def close(self) -> None:
        """End the process; the next request starts a new one."""
        if self._process is not None:
            self._process.communicate()  # closes its input, after which it ends
            self._process = None


@dataclass(frozen=True)
class Plan:
    """Settings of the measurement of cases.

    Attributes:
        rounds: how often each formulation runs.
        longest: formulations with a floor above this number of seconds are skipped.
        seconds: seconds for repeated calls of a formulation.
        rates: the machine's peak rates, if they are known; otherwise each round measures them.
        together: whether formulations of the same library and flags share a process, which starts faster. Memory is
            then the peak of all formulations up to this one.
        only: text that the names of the cases to measure contain.
    """

    rounds: int = 3
    longest: float = 30.0
    seconds: float = 3.0
    rates: dict[str, float] | None = None
    together: bool = False
    only: str = ""


def compare(suite: str, cases: Sequence[Case], plan: Plan) -> Iterator[Row]:
    """Measure cases, each formulation in a separate process unless the plan says otherwise.

    Args:
        suite: the name of the file with the cases.
        cases: the cases to measure.
        plan: how they are measured.

    Yields:
        A row after each of its measurements.
    """
    ours = Child()
    children = {(False, ""): ours}  # by whether it is PyTorch's, and its flags
    for number, case in enumerate(cases):
        if plan.only not in case.name:
            continue
        rows = [Row(case, name) for name in case.formulations]
        for _ in range(plan.rounds):
            rates, base = plan.rates, None
            if rates is None:
                rates = ours.ask("peak")
                ours.close()
            for row in rows:
                floor, formulation = case.floor(rates, row.name), case.formulations[row.name]
                process = row.name.startswith("PyTorch"), formulation.flags
                if process not in children:
                    children[process] = Child(formulation.flags)
                child, least = children[process], floor * formulation.part
                if least > plan.longest:
                    row.missing = f"skipped: at least {least:.0f} s"
                if row.missing:
                    yield row
                    continue
                try:
                    result = child.ask(suite, number, row.name, plan.seconds)
                except RuntimeError as error:
                    row.missing = f"skipped: {error}"
                    yield row
                    continue
                finally:
                    if not plan.together:
                        child.close()
                base = base or result["seconds"]
                row.seconds.append(result.pop("seconds"))
                row.first.append(result.pop("first"))
                row.memory.append(result.pop("memory"))
                row.ratios.append(row.seconds[-1] / base)
                row.shares.append(floor / row.seconds[-1])
                row.peaks.append(rates)
                row.notes = result
                yield row
    for child in children.values():
        child.close()
