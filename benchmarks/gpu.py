"""Measure speed on a machine with a GPU in limited time, and how much of the paper's long runs it completes.

Command: python benchmarks/gpu.py --data ~/data --minutes 30 --output gpu
         python benchmarks/gpu.py --data ~/data --minutes 5 --output cifar --parts device cifar   (some parts)
         python benchmarks/gpu.py --smoke   (every part at its smallest, on a CPU, without data)

Runs the parts in turn (with --smoke two at a time), each in a separate process: device.py, parity.py, suites of run.py
with PyTorch's rows and the floors at the rates that device.py measured, kernels.py, and scripts of experiments/ as a
user runs them. The parts are device, parity, lenet-rates, lenet-2500, inference, fc, resnet-gem, resnet-50,
resnet-kernels, cifar-supsup, cifar-heads and nns. --parts lenet selects both parts whose name begins with "lenet".

The remaining time is shared among the remaining parts by their weights. A part that exceeds its time gets SIGTERM, and
is reported with the results that it has saved. A part is skipped if the remaining time is less than it needs. If a part
fails, the next one starts. Without PyTorch, its rows report that it is missing.

Writes OUTPUT.md and OUTPUT.json at the start and after each part, atomically. Runs and logs go to a new folder below
--runs, or a temporary one. Exit status: 0; 1 if a part failed; 2 after wrong arguments, with nothing written; 130 after
Ctrl-C and 143 after SIGTERM, which end the current part.
"""

import argparse
import contextlib
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import resnet
import run
import train

from supsup_jax.runs import results
from supsup_jax.system import atomic

ROOT = Path(__file__).parents[1]

GRACE = 12.0
"""Seconds from SIGTERM to SIGKILL; scripts save and end within 10 seconds."""

SMOKE_LEAST = 5.0
"""Seconds that a part needs with --smoke."""

SMOKE_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}

LOG_LINES = 15
"""Number of lines at the end of a failed part's log that the report shows."""

MOST_LISTED = 20
"""Runs with at most this number of tasks, such as SplitCIFAR100's 20, are reported task by task."""

Report = tuple[dict[str, Any], list[str]]
"""Measurements as plain data and as lines of Markdown."""


@dataclass(frozen=True)
class Part:
    """A program with a time limit.

    Attributes:
        program: its file: a script of experiments/, or a program of benchmarks/ that writes OUTPUT.md and OUTPUT.json.
        arguments: its command line, without folders.
        smallest: its command line with --smoke.
        least: the minimum seconds for which it is worth starting, on a GPU.
        weight: its share of the remaining time, relative to the parts after it.
        operations: the minimum number of floating-point operations to train one task of a script, for the floor.
    """

    program: str
    arguments: tuple[str, ...]
    smallest: tuple[str, ...]
    least: float
    weight: float = 1.0
    operations: float = 0.0

    @property
    def is_script(self) -> bool:
        """Whether it is a script of experiments/."""
        return self.program.startswith("experiments/")

    def command(self, smoke: bool, data: Path, folder: Path) -> list[str]:
        """Return the command line without Python, with the folder of the data sets and the folder to write to.

        The folders of the other parts are beside it; the arguments name their common folder RUNS.
        """
        folders = (
            ["--data", str(data), "--log-dir", str(folder)] if self.is_script else ["--output", f"{folder}/tables"]
        )
        arguments = self.smallest if smoke else self.arguments
        return [self.program, *(argument.replace("RUNS", str(folder.parent)) for argument in arguments), *folders]


DIGITS = ("--dataset", "digits", "--num-tasks", "2")
PERMUTED_DIGITS = (*DIGITS, "--steps", "20", "--eval-at", "2", "--images-per-task", "8")
SPLIT_DIGITS = (*DIGITS, "--benchmark", "SplitMNIST", "--network", "LeNet", "--features", "10", "--epochs", "1")

MNIST_PERM = "experiments/GNu/MNISTPerm"
CIFAR = "experiments/GG/splitcifar100"

# A chunk of SplitCIFAR100 has one task, so that each task is saved separately.
ONE_TASK = ("--tasks-at-once", "1")
DENSITY = ("--sparsity", "32")


# The scripts train 1,000 updates a task on MNIST, and 250 epochs of 2,500 images on SplitCIFAR100: forward, and the
# gradients of the weights and of the inputs.
LENET_TASK = 1000 * train.work_of_step((784, 300, 100, 500))[0]
FC_TASK = 1000 * train.work_of_step((784, 1024, 1024, 500))[0]
CIFAR_TASK = 250 * 2500 * 6 * resnet.GEM_PRODUCTS


def suite(name: str, *options: str, least: float, weight: float) -> Part:
    """Return a part that measures a suite of run.py; the options also select its smallest cases."""
    every = (name, *options, "--rounds", "1", "--rates", "RUNS/device/tables.json")
    measured = (*every, "--seconds", "1", "--longest", "5")
    return Part("benchmarks/run.py", measured, (*every, "--smallest", "--together"), least, weight)


PARTS = {
    "device": Part("benchmarks/device.py", (), ("--smallest",), least=30, weight=1),
    "parity": Part("benchmarks/parity.py", (), ("--smallest",), least=60, weight=2),
    "lenet-rates": suite("side_by_side", least=45, weight=2),
    "lenet-2500": Part(
        f"{MNIST_PERM}/LeNet-2500-tasks/supsup_h.py", (), PERMUTED_DIGITS, least=60, weight=4, operations=LENET_TASK
    ),
    "inference": suite("inference", "--together", least=45, weight=3),
    "fc": Part(f"{MNIST_PERM}/FC-250-tasks/supsup_h.py", (), PERMUTED_DIGITS, least=60, weight=2, operations=FC_TASK),
    "resnet-gem": suite("resnet", "--together", "--only", "GEMResNet18", least=60, weight=4),
    "resnet-50": suite("resnet", "--together", "--only", "ResNet50", least=60, weight=4),
    "resnet-kernels": Part(
        "benchmarks/kernels.py",
        ("resnet", "--rows", "RUNS/resnet-gem/tables.json", "RUNS/resnet-50/tables.json"),
        ("side_by_side", "--rows", "RUNS/lenet-rates/tables.json", "--smallest"),
        least=60,
        weight=2,
    ),
    "cifar-supsup": Part(
        f"{CIFAR}/rn18-supsup.py",
        (*DENSITY, *ONE_TASK),
        (*DENSITY, *ONE_TASK, *SPLIT_DIGITS),
        least=90,
        weight=6,
        operations=CIFAR_TASK,
    ),
    "cifar-heads": Part(
        f"{CIFAR}/rn18-separate-heads.py",
        ONE_TASK,
        (*ONE_TASK, *SPLIT_DIGITS),
        least=90,
        weight=3,
        operations=CIFAR_TASK,
    ),
    "nns": Part(
        "experiments/NNs/supsup.py",
        ("--eval-at", "10", "50", "100", "250", "500", "1000", "1500", "2000", "2500"),
        PERMUTED_DIGITS,
        least=60,
        weight=4,
        operations=LENET_TASK,
    ),
}


def parts_named(name: str) -> list[str]:
    """Return the parts that a name on the command line selects: one, or several with a common prefix."""
    return [part for part in PARTS if part == name or part.startswith(f"{name}-")]


def read_tables(folder: Path) -> Report:
    """Return the tables that a program of benchmarks/ has written."""
    if not (folder / "tables.md").exists():
        return {}, ["No row was written."]
    _, heading, tables = (folder / "tables.md").read_text().partition("### ")
    return json.loads((folder / "tables.json").read_text()), [(heading + tables).rstrip()]


def read_run(folder: Path) -> Report:
    """Return the tasks and evaluations that a script has saved."""
    records = []
    for file in folder.rglob("metrics.jsonl"):
        for line in file.read_text().splitlines():
            with contextlib.suppress(ValueError):  # the unfinished last line of a killed process
                records.append(json.loads(line))
        num_tasks = results.read_settings(file.parent)["experiment"]["num_tasks"]
    tasks = [record for record in records if record["kind"] == "task"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    if not tasks:
        return {}, ["No task was saved."]
    seconds = [task["seconds"] for task in tasks]
    accuracy = statistics.mean(task["accuracy"] for task in tasks)
    summary = {
        "num_tasks": num_tasks,
        "tasks_learned": len(tasks),
        "training_seconds": sum(seconds),
        "median_task_seconds": statistics.median(seconds),
        "mean_task_accuracy": accuracy,
    }
    sentence = (
        f"Tasks learned: {len(tasks):,} of {num_tasks:,}. Training: {sum(seconds):.1f} s, per task "
        f"{statistics.median(seconds):.3g} s (median). Accuracy of a task right after training, given the task: "
        f"{100 * accuracy:.2f} % (mean)."
    )
    table = evaluation_table(evaluations) if evaluations else ["\nNo evaluation was saved."]
    each = task_table(tasks) if len(tasks) <= MOST_LISTED else []
    return {**summary, "tasks": tasks, "evaluations": evaluations}, [sentence, *table, *each]


def floor_of(part: Part, measured: dict[str, Any], rates: Path) -> list[str]:
    """Add the floor of a script's training to its measurements, and return it as lines of Markdown.

    Args:
        part: the part.
        measured: its measurements.
        rates: the JSON file of device.py.
    """
    if not part.operations or "tasks_learned" not in measured or not rates.exists():
        return []
    rate = json.loads(rates.read_text())["rates"]["tf32"]
    measured["floor_seconds"] = part.operations * measured["tasks_learned"] / rate
    return [
        f"\nFloor of the training: {measured['floor_seconds']:.3g} s, its operations at {rate / 1e12:.3g} TFLOP/s, the "
        "rate of products in TensorFloat-32."
    ]


def task_table(tasks: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table with a row for each task."""
    lines = ["\n| task | accuracy right after training, % | training, min |", "| --- | --- | --- |"]
    for record in tasks:
        lines.append(f"| {record['task']} | {100 * record['accuracy']:.2f} | {record['seconds'] / 60:.2f} |")
    return lines


def evaluation_table(evaluations: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table with a row for each evaluation of all tasks learned so far."""
    percentages = {
        "given": "task given, %",
        "inferred": "task inferred once a batch, %",
        "inferred_per_image": "task inferred for every image, %",
        "picked": "batches with the right task, %",
    }
    lines = [f"\n| tasks learned | training, s | evaluation, s | {' | '.join(percentages.values())} |"]
    lines.append("| --- " * (3 + len(percentages)) + "|")
    for record in evaluations:
        cells = [f"{record['num_tasks']:,}", f"{record['training_seconds']:.1f}", f"{record['seconds']:.1f}"]
        cells += [f"{100 * record[name]:.2f}" if name in record else "" for name in percentages]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


class Parser(argparse.ArgumentParser):
    """An argument parser that reports wrong arguments in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message without the usage, and exit with status 2."""
        self.exit(2, f"error: {message}\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the data sets, as for the scripts")
    parser.add_argument("--minutes", type=float, help="time for all parts together")
    parser.add_argument("--output", type=Path, help="the files to write, without suffix")
    parser.add_argument("--runs", type=Path, help="folder for runs and logs; by default a temporary one")
    parser.add_argument("--parts", nargs="+", metavar="PART", default=list(PARTS), help="some of the parts")
    parser.add_argument("--smoke", action="store_true", help="every part at its smallest; needs no other option")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.minutes = 10.0 if options.minutes is None else options.minutes
        options.output = options.output or Path(tempfile.gettempdir()) / f"gpu-smoke-{os.getpid()}/gpu"
        options.data = options.data or options.output.parent
    elif None in (options.data, options.minutes, options.output):
        parser.error("--data, --minutes and --output are required; only --smoke runs without them")
    elif not options.data.is_dir():
        parser.error(f"--data {options.data}: not a folder; give the folder with the data sets")
    if not 0 < options.minutes < math.inf:
        parser.error(f"--minutes {options.minutes:g}: must be more than 0")
    if unknown := [name for name in options.parts if not parts_named(name)]:
        parser.error(f"--parts {' '.join(unknown)}: unknown; expected some of {', '.join(PARTS)}")
    options.parts = [part for name in options.parts for part in parts_named(name)]
    if not options.output.name:
        parser.error(f"--output {options.output}: not a file name; give one without suffix")
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        if options.runs:
            options.runs.mkdir(parents=True, exist_ok=True)
        options.runs = Path(tempfile.mkdtemp(prefix="gpu-", dir=options.runs))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}; give a different --output or --runs")
    return options


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Collect the numbers of SIGINT and SIGTERM in a list instead of ending the process."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_bounded(command: Sequence[str], log: Path, seconds: float, smoke: bool, received: list[int]) -> tuple[int, str]:
    """Run a command in a new process group; end it when its time is up or this process has received a signal.

    Returns:
        Its exit status, and the reason if it was ended early.
    """
    environment = os.environ | (SMOKE_ENVIRONMENT if smoke else {})
    if smoke:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(log.parents[1] / "compiled")  # parts share programs
    reason = ""
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
        )
        until = time.monotonic() + seconds
        while process.poll() is None:
            if not reason and (received or time.monotonic() > until):
                reason = "interrupted" if received else f"its {seconds:.0f} s were up"
                until = time.monotonic() + GRACE
                os.killpg(process.pid, signal.SIGTERM)
            elif reason and time.monotonic() > until:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # child processes that are still running
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, reason


def run_part(name: str, options: argparse.Namespace, seconds: float, received: list[int]) -> dict[str, Any]:
    """Run a part and return its entry in the report."""
    part, folder = PARTS[name], options.runs / name
    folder.mkdir()
    command, log = part.command(options.smoke, options.data, folder), folder / "log"
    started = time.monotonic()
    python = [sys.executable, str(ROOT / command[0]), *command[1:]]
    status, reason = run_bounded(python, log, seconds, options.smoke, received)
    outcome = f"stopped: {reason}" if status and reason else f"failed: exit status {status}" if status else "finished"
    entry: dict[str, Any] = {"outcome": outcome, "seconds": round(time.monotonic() - started, 1)}
    entry["command"] = shlex.join(["python", *command])
    try:
        entry["measured"], entry["markdown"] = (read_run if part.is_script else read_tables)(folder)
        if not options.smoke:  # which has other settings
            entry["markdown"] += floor_of(part, entry["measured"], options.runs / "device/tables.json")
    except Exception as error:  # of any type: the next part must start
        entry["outcome"] = f"failed: its results cannot be read ({error!r})"
    if entry["outcome"].startswith("failed"):
        entry["log"] = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    return entry


def write(options: argparse.Namespace, about: dict[str, Any], entries: dict[str, dict[str, Any]]) -> None:
    """Write both files atomically."""
    plain = {name: {key: entry[key] for key in entry if key != "markdown"} for name, entry in entries.items()}
    text = json.dumps({**about, "parts": plain}, indent=1)
    atomic.write(options.output.with_name(f"{options.output.name}.json"), text + "\n")
    lines = ["# GPU benchmark\n", *(f"- {name}: {value}" for name, value in about.items())]
    lines += ["\n| part | outcome | seconds |", "| --- | --- | --- |"]
    lines += [f"| {name} | {entry['outcome']} | {entry.get('seconds', '')} |" for name, entry in entries.items()]
    for name, entry in entries.items():
        if "command" in entry:
            lines += [f"\n## {name}\n", f"`{entry['command']}`: {entry['outcome']}.\n", *entry.get("markdown", [])]
        if "log" in entry:
            lines += ["\nThe end of its log:\n\n```", *entry["log"], "```"]
    atomic.write(options.output.with_name(f"{options.output.name}.md"), "\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts given on the command line, and return the exit status."""
    until = time.monotonic()
    options = parse(arguments)
    until += 60 * options.minutes
    writing = threading.Lock()
    entries: dict[str, dict[str, Any]] = {name: {"outcome": "not started"} for name in options.parts}
    with signals() as received:
        about = {**run.machine(), "started": time.strftime("%Y-%m-%d %H:%M:%S"), "minutes": options.minutes}
        about |= {"smoke": options.smoke, "runs and logs": str(options.runs)}
        write(options, about, entries)

        def run_next(number: int) -> None:
            if received:
                return
            name, *later = list(entries)[number:]
            remaining, least = until - time.monotonic() - GRACE, SMOKE_LEAST if options.smoke else PARTS[name].least
            if remaining < least:
                entries[name] = {"outcome": f"skipped: {max(remaining, 0):.0f} s remain, needs {least:.0f} s"}
            else:
                weight = PARTS[name].weight
                share = weight / (weight + sum(PARTS[part].weight for part in later))
                seconds = min(remaining, max(least, remaining * (1 if options.smoke else share)))
                print(f"{name}: started, {seconds:.0f} s at most", flush=True)
                entries[name] = run_part(name, options, seconds, received)
            print(f"{name}: {entries[name]['outcome']}", flush=True)
            with writing:
                write(options, about, entries)

        # --smoke checks only that parts run, so two of them may share the processor.
        with ThreadPoolExecutor(2 if options.smoke else 1) as pool:
            list(pool.map(run_next, range(len(entries))))
    print(f"report: {options.output}.md")
    if received:
        return 128 + received[0]
    return int(any(entry["outcome"].startswith("failed") for entry in entries.values()))


if __name__ == "__main__":
    sys.exit(main())
