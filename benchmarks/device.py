"""Measure the machine's devices and driver, and the rates of a large matrix product and sum on the first device.

Command: python benchmarks/device.py --output device
         python benchmarks/device.py --smallest   (small arrays, to check that it runs)

Writes OUTPUT.md and OUTPUT.json. For tf32, a GPU rounds float32 matrices to TensorFloat-32, but a CPU does not.
"""

import argparse
import json
import subprocess
from pathlib import Path

import compare
import run

PRODUCTS = {
    "float32": ("float32", "highest"),
    "tf32": ("float32", "tensorfloat32"),
    "bfloat16": ("bfloat16", "default"),
}
"""The type of the matrices and the precision of their product."""


def nvidia_smi(*arguments: str) -> str:
    """Return the output of nvidia-smi, or an empty string if it is missing or fails."""
    try:
        return subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def measure(smallest: bool) -> dict:
    """Return devices, driver, versions, and rates per second."""
    import jax

    from supsup_jax.system import backend

    if smallest:
        size, length = 500, 10**6
    else:
        size, length = (8192, 5 * 10**8) if backend.is_accelerator() else (3000, 10**8)
    return {
        "devices": [f"{device} ({device.device_kind})" for device in jax.devices()],
        "driver": nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader") or "none",
        "nvidia-smi": nvidia_smi(),
        "machine": run.machine(),
        "size": size,
        "operations": {name: compare.product_rate(size, *product) for name, product in PRODUCTS.items()},
        "length": length,
        "bytes": compare.sum_rate(length),
    }


def markdown(measured: dict) -> str:
    """Return the measurements as text and a table."""
    lines = [f"### {', '.join(measured['devices'])}\n", f"Driver: {measured['driver'].replace(chr(10), ', ')}.\n"]
    lines += ["|  | rate |", "| --- | --- |"]
    for name, rate in measured["operations"].items():
        lines.append(
            f"| product of {measured['size']} × {measured['size']} matrices, {name} | {rate / 1e12:.3g} TFLOP/s |"
        )
    gigabytes = 4 * measured["length"] / 1e9
    lines.append(f"| sum of {gigabytes:g} GB in float32 | {measured['bytes'] / 1e9:.4g} GB/s |")
    if measured["nvidia-smi"]:
        lines += ["", "```", measured["nvidia-smi"], "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write both files, and print the Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smallest", action="store_true", help="small arrays, to check that it runs")
    parser.add_argument("--output", type=Path, default=Path("device"), help="the files to write, without suffix")
    arguments = parser.parse_args()
    measured = measure(arguments.smallest)

    from supsup_jax.system import atomic

    atomic.write(arguments.output.with_suffix(".json"), json.dumps(measured, indent=1) + "\n")
    atomic.write(arguments.output.with_suffix(".md"), markdown(measured))
    print(markdown(measured))


if __name__ == "__main__":
    main()
