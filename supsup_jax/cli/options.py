"""Options of experiment scripts that are not settings of the experiment."""

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supsup_jax.cli import sweep
from supsup_jax.errors import UserError

# Name of the program that runs a notebook's kernel; its connection file is given as `-f FILE` or `--f=FILE`.
_KERNEL = re.compile(r"kernel_launcher(\.py)?$|ipykernel")

MOST_RUNS = 100_000
"""Maximum number of runs of a command line: every run requires a folder and a process."""

_LARGEST_PORT = 2**16 - 1

# One week, in seconds.
_LONGEST_TIMEOUT = 7 * 24 * 3600


@dataclass(frozen=True)
class Options:
    """Folders, devices and hosts of a run; they do not affect its results."""

    config: Path | None = None
    """YAML file with settings that replace the script's; flags on the command line take precedence."""

    data: Path = Path("~/data")
    """Folder with data sets in any supported layout; missing data sets are downloaded into it."""

    log_dir: Path = Path("runs")
    """Folder for results."""

    seeds: int | None = None
    """Make runs with seeds 0 to N-1; replaces --seed."""

    gpu_sets: str | None = None
    """Sets of GPUs for several runs, such as "0,1|2,3": each run uses the next free set.
    By default every GPU is a set; without GPUs, the runs use the CPU one after another."""

    tasks_at_once: int | None = None
    """Tasks to learn between checkpoints; by default 8 or one per core on CPUs, up to 128 per GPU as memory allows, or
    one per device with convolutions. Results do not depend on it. An interrupted run stops after this number of tasks.
    """

    tasks: str | None = None
    """Learn each of these tasks in a separate run, such as 0:100 for the first hundred; 0:100:8 learns 8 in each run.
    `python -m supsup_jax collect` combines the runs."""

    learned_in: Path | None = None
    """Folder of a run that differs only in search, objective, --images-per-pick, --images-per-task, --eval-sample,
    --eval-at or --num-tasks: a new run takes its learned tasks, and learns only the missing ones."""

    coordinator: str | None = None
    """For a run on several hosts: HOST:PORT of the first host. Run the same command on every host.
    Not required under SLURM with srun."""

    hosts: int | None = None
    """With --coordinator: number of hosts."""

    host: int | None = None
    """With --coordinator: index of this host, from 0."""

    host_timeout: int = 300
    """With several hosts: seconds to wait for the other hosts at the start."""

    resume: bool = False
    """Resume the latest runs with the same settings; finished runs are not changed, and missing runs start."""

    def __post_init__(self) -> None:
        for name in ("seeds", "tasks_at_once"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST_RUNS:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be from 1 to {MOST_RUNS}")
        if self.gpu_sets is not None:
            sweep.parse_sets(self.gpu_sets)
        if self.tasks is not None:
            parse_parts(self.tasks)
        check_hosts(self.coordinator, self.hosts, self.host, self.host_timeout)


def check_hosts(coordinator: str | None, hosts: int | None, host: int | None, timeout: int) -> None:
    """Check the options of a process that shares its work with processes on other hosts.

    Raises:
        UserError: if one is missing or out of range.
    """
    if coordinator is not None and not re.fullmatch(r"\S+:\d{1,5}", coordinator):
        raise UserError(f"--coordinator {coordinator}: must be HOST:PORT, such as node1:1234")
    if coordinator is not None and not 1 <= int(coordinator.rpartition(":")[2]) <= _LARGEST_PORT:
        raise UserError(f"--coordinator {coordinator}: the port must be from 1 to {_LARGEST_PORT}")
    if not 1 <= timeout <= _LONGEST_TIMEOUT:
        raise UserError(f"--host-timeout {timeout}: must be from 1 to {_LONGEST_TIMEOUT} seconds")
    given = coordinator is not None, hosts is not None, host is not None
    if any(given) and not all(given):
        raise UserError("--coordinator, --hosts and --host must be given together; give all of them, or none")
    if hosts is not None and host is not None and not 0 <= host < hosts:
        raise UserError(f"--host {host}: must be from 0 to {hosts - 1}")


def parse_tasks(text: str) -> range:
    """Parse the value of `--tasks`, FIRST:STOP.

    Raises:
        UserError: if it is not two integers of at most 9 digits, or the range is empty.
    """
    ends = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    tasks = range(*map(int, ends.groups())) if ends else range(0)
    if not tasks:
        raise UserError(f"--tasks {text}: must be FIRST:STOP with FIRST < STOP, such as 0:100 for the first hundred")
    return tasks


@contextlib.contextmanager
def arguments_of_user() -> Iterator[None]:
    """Remove the arguments of a notebook's kernel or of IPython from `sys.argv` inside the context."""
    before = list(sys.argv)
    sys.argv[1:] = _without_ipython_arguments(before)
    try:
        yield
    finally:
        sys.argv[:] = before


def _without_ipython_arguments(argv: list[str]) -> list[str]:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    started = sys.orig_argv[len(sys.orig_argv) - len(argv) + 1 :]
    if shell is not None and not hasattr(sys.modules["__main__"], "__file__") and argv[1:] == started:
        return []  # these are still the arguments that IPython was started with
    if argv and _KERNEL.search(argv[0]):
        counts = (count for count in range(len(argv) - 1, 0, -1) if sys.orig_argv[-count:] == argv[1 : count + 1])
        if of_kernel := next(counts, 0):  # Kaggle and VS Code start kernels with further arguments
            return argv[1 + of_kernel :]
        if argv[1:2] == ["-f"]:
            return argv[3:]
        return [word for word in argv[1:] if not word.startswith(("--f=", "-f="))]
    return argv[1:]


@contextlib.contextmanager
def parser_errors_as_user_errors() -> Iterator[None]:
    """Raise tyro's errors about a command line as `UserError`, instead of printing a box to stderr.

    Raises:
        SystemExit: for `--help`.
        UserError: if the command line is wrong.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            yield
    except SystemExit:
        if not complaint.getvalue():
            raise
        raise UserError(_one_line(complaint.getvalue())) from None


def _one_line(box: str) -> str:
    """Return the message in tyro's error box, without the frame and the help texts."""
    lines = [line.strip("│| ") for line in box.splitlines()[1:-1]]
    words = " ".join(line for line in lines if not set(line) <= {"─", "-"})  # "-" on terminals without UTF-8
    words = words.split(" For full helptext")[0].split(" Argument helptext:")[0]
    words = re.sub(r" in \S+ \S+ --help", "", words)  # tyro omits a part of `python -m supsup_jax COMMAND`
    words = re.sub(r" Perhaps you meant: (-[\w-]+).*", r"; did you mean \1?", words)
    words = words.replace(" Available subcommands: ", "; available subcommands: ")
    return f"{words} (--help lists all options)"


def parse_parts(text: str) -> list[range]:
    """Parse the value of `--tasks` of a script, FIRST:STOP or FIRST:STOP:SIZE.

    Returns:
        The tasks of each run: `SIZE` tasks, by default one, and fewer in the last run if they do not divide evenly.

    Raises:
        UserError: if these are not integers of at most 9 digits, the range is empty, or there are too many runs.
    """
    numbers = re.fullmatch(r"(\d{1,9}:\d{1,9}):(\d{1,9})", text)
    if text.count(":") > 1 and (numbers is None or int(numbers[2]) == 0):
        raise UserError(f"--tasks {text}: must be FIRST:STOP:SIZE with SIZE > 0, such as 0:100:8 for 8 tasks in a run")
    tasks, size = (parse_tasks(numbers[1]), int(numbers[2])) if numbers else (parse_tasks(text), 1)
    if (count := -(-len(tasks) // size)) > MOST_RUNS:
        raise UserError(
            f"--tasks {text}: {count} runs are too many; learn several tasks in each, such as --tasks {tasks.start}:"
            f"{tasks.stop}:{-(-len(tasks) // MOST_RUNS)}"
        )
    return [tasks[first : first + size] for first in range(0, len(tasks), size)]
