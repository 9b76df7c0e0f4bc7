"""Profile the slowest formulation of supsup_jax that run.py has measured: its ten longest kernels, as text.

Command: python benchmarks/kernels.py resnet --rows resnet.json --output kernels
         python benchmarks/kernels.py side_by_side --smallest   (the first formulation, to check that it runs)

The slowest formulation has the smallest share of its floor. Without results of run.py it is the first formulation.
Writes OUTPUT.md and OUTPUT.json. On a CPU, the time of a loop includes the operations in it.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import run

LONGEST = 10


def slowest(rows: Sequence[dict[str, Any]]) -> tuple[str, str] | None:
    """Return the case and the name of the row of supsup_jax with the smallest share of its floor, if there is one."""
    shares = {
        (row["case"], row["name"]): row["shares"][-1]
        for row in rows
        if row["name"].startswith("supsup_jax") and row["shares"] and row["shares"][-1] > 0
    }
    return min(shares, key=shares.__getitem__, default=None)


def kernels(call: Callable[[], object]) -> tuple[float, dict[str, list[float]]]:
    """Return the seconds of a call, and the seconds of each of its kernels by name."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            started = time.perf_counter()
            call()
            seconds = time.perf_counter() - started
        files = [str(file) for file in Path(folder).rglob("*.xplane.pb")]
        planes = [plane for file in files for plane in jax.profiler.ProfileData.from_file(file).planes]
        durations: dict[str, list[float]] = {}
        devices = [plane for plane in planes if plane.name.startswith("/device:")]
        for plane in devices or planes:
            for line in plane.lines:
                # A GPU's other lines repeat the kernels of its streams, by operation or by module.
                if not devices or line.name.startswith("Stream"):
                    for event in line.events:
                        if devices or any(name == "hlo_op" for name, _ in event.stats):
                            durations.setdefault(event.name, []).append(event.duration_ns / 1e9)
    return seconds, durations


def markdown(title: str, seconds: float, durations: dict[str, list[float]]) -> str:
    """Return the longest kernels as a table."""
    total = sum(map(sum, durations.values()))
    calls = sum(map(len, durations.values()))
    lines = [f"### Kernels of {title}\n"]
    lines.append(f"One call takes {seconds:.3g} s with the profiler, and {calls:,} kernels take {total:.3g} s.\n")
    lines += ["| kernel | calls | seconds | share of the kernels |", "| --- | --- | --- | --- |"]
    for name, times in sorted(durations.items(), key=lambda item: -sum(item[1]))[:LONGEST]:
        shown = name[:100].replace("|", "/")
        lines.append(f"| `{shown}` | {len(times):,} | {sum(times):.3g} | {100 * sum(times) / total:.1f} % |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Profile, write both files, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=run.SUITES, help="the suite of the formulation")
    parser.add_argument("--rows", type=Path, nargs="+", default=[], help="JSON files of run.py, if they exist")
    parser.add_argument("--smallest", action="store_true", help="the suite's smallest case, to check that it runs")
    parser.add_argument("--output", type=Path, default=Path("kernels"), help="the files to write, without suffix")
    arguments = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    rows = [row for file in arguments.rows if file.exists() for row in json.loads(file.read_text())["rows"]]
    suite = f"{arguments.suite}/smallest" if arguments.smallest else arguments.suite
    cases = {case.name: case for case in run.cases(suite)}
    first = next(iter(cases.values()))
    case, name = slowest(rows) or (first.name, next(iter(first.formulations)))
    call = cases[case].formulations[name].prepare()
    call()  # compiles
    seconds, durations = kernels(call)

    from supsup_jax.system import atomic

    totals = {kernel: {"calls": len(times), "seconds": sum(times)} for kernel, times in durations.items()}
    measured = {"case": case, "name": name, "seconds": seconds, "kernels": totals}
    text = markdown(f"{name}: {case}", seconds, durations)
    atomic.write(arguments.output.with_suffix(".json"), json.dumps(measured) + "\n")
    atomic.write(arguments.output.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
