"""Measure the numbers in docs/speed.md: this library beside PyTorch, and both relative to the machine's peak rates.

Command: python benchmarks/run.py   (rows of PyTorch require `pip install torch torchvision`)
         python benchmarks/run.py train inference --rounds 1   (some suites)
         python benchmarks/run.py resnet --smallest   (one case that takes seconds, to check that the suite runs)

Without PyTorch, its rows report that it is missing. Writes OUTPUT.md and OUTPUT.json after every case, atomically. The
floor of a case is the time for its operations at the rate of a large matrix product, or for its bytes at the rate of a
large sum, whichever is longer. Both rates are measured in the same round. On a machine with a GPU, everything runs on
the GPU.
"""

import argparse
import importlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import compare

SUITES = ("train", "inference", "evaluation", "resnet", "start", "scaling", "checkpoints")
WITH_SMALLEST = ("inference", "resnet")


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
    """Return the cases of a suite, or for "SUITE/smallest" only the case that takes seconds."""
    name, _, smallest = suite.partition("/")
    module = importlib.import_module(name)
    return [module.smallest()] if smallest else module.cases()


def child(suite: str, number: str = "0", name: str = "") -> None:
    """Measure one formulation in this process and print the result."""
    if suite == "peak":
        result = compare.peak()
    else:
        seconds = 0.0 if suite.endswith("/smallest") else 3.0
        result = compare.measure(cases(suite)[int(number)].formulations[name], seconds)
    print(json.dumps(result))


def main() -> None:
    """Run the suites given on the command line."""
    if sys.argv[1:2] == ["--child"]:
        return child(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; by default all")
    parser.add_argument("--rounds", type=int, default=3, help="how often each formulation runs")
    parser.add_argument("--longest", type=float, default=30.0, help="skip cases whose floor is more seconds than this")
    parser.add_argument("--smallest", action="store_true", help=f"one case in seconds; {', '.join(WITH_SMALLEST)} only")
    parser.add_argument("--output", type=Path, default=Path("benchmark"), help="the files to write, without suffix")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(SUITES):
        parser.error(f"there is no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    suites = arguments.suites or SUITES
    if arguments.smallest:
        if without := set(suites) - set(WITH_SMALLEST):
            parser.error(f"--smallest: {', '.join(sorted(without))} has no such case; name {', '.join(WITH_SMALLEST)}")
        suites = [f"{suite}/smallest" for suite in suites]

    from supsup_jax.system import atomic

    about = machine()
    rows: list[compare.Row] = []
    for suite in suites:
        for row in compare.compare(suite, cases(suite), arguments.rounds, arguments.longest):
            rows.append(row)
            print(row.name, row.missing or compare.spread(row.seconds, ".3g"), flush=True)
            plain = {"machine": about, "rows": [row.to_json() for row in rows]}
            atomic.write(arguments.output.with_suffix(".json"), json.dumps(plain, indent=1) + "\n")
            lines = [f"- {name}: {value}" for name, value in about.items()]
            text = "\n".join(["# Speed\n", *lines, compare.markdown(rows), ""])
            atomic.write(arguments.output.with_suffix(".md"), text)
    if "scaling" in suites:
        importlib.import_module("scaling").draw(rows, arguments.output.with_suffix(".png"))
    print(arguments.output.with_suffix(".md").read_text())
    return None


if __name__ == "__main__":
    main()
