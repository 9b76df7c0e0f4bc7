"""Measures what the README says of speed: this library beside PyTorch, and both beside what the machine can do.

Command: python benchmarks/run.py   (rows of PyTorch need `pip install torch torchvision`; without it they say so)
         python benchmarks/run.py train inference --rounds 1   (some of it)

Writes OUTPUT.md and OUTPUT.json after every case. The floor of a case is the time that its operations take at the rate
of a large product of matrices, or its bytes at that of a large sum, whichever is longer, both measured in the same
round. On a machine with a GPU everything runs there.
"""

import argparse
import importlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path

import compare

SUITES = ("train", "inference", "evaluation", "resnet", "start", "scaling")


def machine() -> dict[str, str]:
    """What the figures were measured on."""
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
    from supsup_jax import backend

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


def child(suite: str, number: str = "0", name: str = "") -> None:
    """Measures one formulation in this process, and prints what came out."""
    if suite == "peak":
        result = compare.peak()
    else:
        result = compare.measure(importlib.import_module(suite).cases()[int(number)].formulations[name])
    print(json.dumps(result))


def main() -> None:
    """Runs the suites that the command line names."""
    if sys.argv[1:2] == ["--child"]:
        return child(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; by default all")
    parser.add_argument("--rounds", type=int, default=3, help="how often each formulation runs")
    parser.add_argument("--longest", type=float, default=30.0, help="leave cases out whose floor is more seconds")
    parser.add_argument("--output", type=Path, default=Path("benchmark"), help="the files to write, without ending")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(SUITES):
        parser.error(f"there is no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")

    about = machine()
    rows: list[compare.Row] = []
    for suite in arguments.suites or SUITES:
        for row in compare.compare(suite, importlib.import_module(suite).cases(), arguments.rounds, arguments.longest):
            rows.append(row)
            print(row.name, row.missing or compare.spread(row.seconds, ".3g"), flush=True)
            plain = {"machine": about, "rows": [row.to_json() for row in rows]}
            arguments.output.with_suffix(".json").write_text(json.dumps(plain, indent=1) + "\n")
            lines = [f"- {name}: {value}" for name, value in about.items()]
            text = "\n".join(["# Speed\n", *lines, compare.markdown(rows), ""])
            arguments.output.with_suffix(".md").write_text(text)
    if "scaling" in (arguments.suites or SUITES):
        importlib.import_module("scaling").draw(rows, arguments.output.with_suffix(".png"))
    print(arguments.output.with_suffix(".md").read_text())
    return None


if __name__ == "__main__":
    main()
