"""Measure the numbers in docs/speed.md: this library beside PyTorch, and both relative to the machine's peak rates.

Command: python benchmarks/run.py   (rows of PyTorch require `pip install torch torchvision`)
         python benchmarks/run.py train inference --rounds 1   (some suites)
         python benchmarks/run.py resnet --smallest   (one case that takes seconds, to check that the suite runs)

Without PyTorch, its rows report that it is missing. Writes OUTPUT.md and OUTPUT.json after every row, atomically. The
floor of a case is the time for its operations at the rate of a large matrix product, or for its bytes at the rate of a
large sum, whichever is longer. Both rates are measured in the same round, or come from the JSON file of device.py. On a
machine with a GPU, everything runs on the GPU.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import compare
import peaks
import report

SUITES = (
    "train", "side_by_side", "inference", "evaluation", "resnet", "convolutions", "start", "scaling", "checkpoints",
)  # fmt: skip
WITH_SMALLEST = ("side_by_side", "inference", "resnet")


def machine() -> dict[str, str]:
    """Return the machine's hardware and the versions of packages."""
    versions = {}
    for package in ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "missing"
    try:
        gpus = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        gpus = "none"
    from supsup_jax.system import backend

    return {
        "processor": _processor(),
        "cores": str(backend.cores()),
        "GPUs": gpus,
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def cases(suite: str) -> Sequence[compare.Case]:
    """Return the cases of a suite, or for "SUITE/smallest" only the smallest ones, which take seconds."""
    name, _, smallest = suite.partition("/")
    module = importlib.import_module(name)
    return module.smallest() if smallest else module.cases()


def answer() -> None:
    """Measure one formulation for each line of the input, and print the results."""
    for line in sys.stdin:
        suite, number, name, seconds = json.loads(line)
        try:
            if suite == "peak":
                products = peaks.PRODUCTS if peaks.is_accelerated() else ("float32",)
                result = peaks.peak(tuple(products))
            else:
                result = compare.measure(cases(suite)[number].formulations[name], seconds)
        except Exception as error:  # of any type: the next formulation may work
            result = {"error": " ".join(str(error).split())[:300] or type(error).__name__}
        compare.release()
        print(f"\n{compare.MARK}{json.dumps(result)}", flush=True)


def parse() -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; by default all")
    parser.add_argument("--only", default="", help="only cases whose name contains this text")
    parser.add_argument("--rounds", type=int, default=3, help="how often each formulation runs")
    parser.add_argument("--longest", type=float, default=30.0, help="skip rows whose floor is more seconds than this")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds for repeated calls of a formulation")
    parser.add_argument("--rates", type=Path, help="the JSON file of device.py; measured again if it is missing")
    parser.add_argument("--together", action="store_true", help="start one process for all rows of a library")
    parser.add_argument("--smallest", action="store_true", help=f"one case in seconds; {', '.join(WITH_SMALLEST)} only")
    parser.add_argument("--output", type=Path, default=Path("benchmark"), help="the files to write, without suffix")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(SUITES):
        parser.error(f"there is no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    arguments.suites = arguments.suites or SUITES
    if arguments.smallest:
        if without := set(arguments.suites) - set(WITH_SMALLEST):
            parser.error(f"--smallest: {', '.join(sorted(without))} has no such case; name {', '.join(WITH_SMALLEST)}")
        arguments.suites, arguments.seconds = [f"{suite}/smallest" for suite in arguments.suites], 0.0
    return arguments


def main() -> None:
    """Run the suites given on the command line."""
    # Otherwise the first process on a GPU would take most of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if sys.argv[1:] == ["--child"]:
        return answer()
    arguments = parse()

    from supsup_jax.system import atomic

    about = machine()
    rates = None
    if arguments.rates and arguments.rates.exists():
        rates = json.loads(arguments.rates.read_text())["rates"]
        if not peaks.is_accelerated():
            rates.pop("tf32", None)  # a CPU does not round to TensorFloat-32
    plan = compare.Plan(
        arguments.rounds, arguments.longest, arguments.seconds, rates, arguments.together, arguments.only
    )
    rows: list[compare.Row] = []
    for suite in arguments.suites:
        for row in compare.compare(suite, cases(suite), plan):
            if all(row is not other for other in rows):
                rows.append(row)
            print(row.name, row.missing or report.spread(row.seconds, ".3g"), flush=True)
            plain = {"machine": about, "rows": [row.to_json() for row in rows]}
            atomic.write(arguments.output.with_suffix(".json"), json.dumps(plain, indent=1) + "\n")
            lines = [f"- {name}: {value}" for name, value in about.items()]
            text = "\n".join(["# Speed\n", *lines, report.markdown(rows), ""])
            atomic.write(arguments.output.with_suffix(".md"), text)
    if "scaling" in arguments.suites:
        importlib.import_module("scaling").draw(rows, arguments.output.with_suffix(".png"))
    if rows:
        print(arguments.output.with_suffix(".md").read_text())
    return None


if __name__ == "__main__":
    main()
