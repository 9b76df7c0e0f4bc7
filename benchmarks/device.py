"""Measure the machine's devices and driver, and the first device's rates of matrix products, a sum and a copy.

Command: python benchmarks/device.py --output device
         python benchmarks/device.py --smallest   (small arrays, to check that it runs)

Writes OUTPUT.md and OUTPUT.json. For tf32, a GPU rounds float32 matrices to TensorFloat-32, but a CPU does not.
"""

import argparse
import json
import subprocess
from pathlib import Path

import peaks
import run


def nvidia_smi(*arguments: str) -> str:
    """Return the output of nvidia-smi, or an empty string if it is missing or fails."""
    try:
        return subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def measure(smallest: bool) -> dict:
    """Return devices, driver, versions, and rates per second."""
    import jax

    size, length = peaks.sizes(smallest)
    return {
        "devices": [f"{device} ({device.device_kind})" for device in jax.devices()],
        "driver": nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader") or "none",
        "nvidia-smi": nvidia_smi(),
        "machine": run.machine(),
        "size": size,
        "length": length,
        "rates": peaks.peak(tuple(peaks.PRODUCTS), smallest) | {"copy": peaks.copy_rate(length)},
    }


def markdown(measured: dict) -> str:
    """Return the measurements as text and a table."""
    lines = [f"### {', '.join(measured['devices'])}\n", f"Driver: {measured['driver'].replace(chr(10), ', ')}.\n"]
    lines += ["|  | rate |", "| --- | --- |"]
    rates, size, gigabytes = measured["rates"], measured["size"], 4 * measured["length"] / 1e9
    for name in peaks.PRODUCTS:
        lines.append(f"| product of {size} × {size} matrices, {name} | {rates[name] / 1e12:.3g} TFLOP/s |")
    lines.append(f"| sum of {gigabytes:g} GB in float32 | {rates['bytes'] / 1e9:.4g} GB/s |")
    lines.append(f"| copy of {gigabytes:g} GB, read and written | {rates['copy'] / 1e9:.4g} GB/s |")
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
