"""The options of an experiment script beside the settings of its experiment."""

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supsup_jax.cli import sweep
from supsup_jax.errors import UserError

# What starts the kernel of a notebook, with its connection file as `-f FILE` or `--f=FILE`.
_KERNEL = re.compile(r"kernel_launcher(\.py)?$|ipykernel")

MOST_RUNS = 100_000
"""A run is a folder and a process of its own."""

_LARGEST_PORT = 2**16 - 1

# A week.
_LONGEST_TIMEOUT = 7 * 24 * 3600


@dataclass(frozen=True)
class Options:
    """Where a run reads and writes, and how: nothing that changes what it computes."""

    config: Path | None = None
    """YAML file with settings in place of the script's; what the command line says goes before."""

    data: Path = Path("~/data")
    """Folder with data sets in the layouts that you have; what is missing is downloaded into it."""

    log_dir: Path = Path("runs")
    """Folder for results."""

    seeds: int | None = None
    """Run with seeds 0 to N-1 in place of --seed."""

    gpu_sets: str | None = None
    """Sets of GPUs for several runs, such as "0,1|2,3": each run has the next free set, in a process of its own. By
    default every GPU is a set, or the CPU."""

    tasks_at_once: int | None = None
    """Tasks to learn between two checkpoints; by default 8 or one a core on a CPU, and up to
    128 a GPU as memory allows. Results do not depend on it; an end that is asked for comes after so many."""

    tasks: str | None = None
    """Tasks to learn each as a run of its own, such as 0:100 for the first hundred; `python -m supsup_jax collect`
    then makes one run of them."""

    coordinator: str | None = None
    """A run on several hosts: HOST:PORT of the first of them, where the same command runs on each. Under SLURM, with
    srun, nothing needs to be said."""

    hosts: int | None = None
    """With --coordinator: how many hosts there are."""

    host: int | None = None
    """With --coordinator: which of them this is, from 0."""

    host_timeout: int = 300
    """With several hosts: seconds to wait for the others at the start."""

    resume: bool = False
    """Go on with the latest runs of these settings, if there are any; those that are finished are left as they are."""

    def __post_init__(self) -> None:
        for name in ("seeds", "tasks_at_once"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST_RUNS:
                raise UserError(
                    f"--{name.replace('_', '-')} {value} is out of range; give a number from 1 to {MOST_RUNS}"
                )
        if self.gpu_sets is not None:
            sweep.parse_sets(self.gpu_sets)
        if self.tasks is not None:
            parse_tasks(self.tasks)
        if self.coordinator is not None and not re.fullmatch(r"\S+:\d{1,5}", self.coordinator):
            raise UserError(f"--coordinator {self.coordinator} is no address; give HOST:PORT, such as node1:1234")
        if self.coordinator is not None and not 1 <= int(self.coordinator.rpartition(":")[2]) <= _LARGEST_PORT:
            raise UserError(f"--coordinator {self.coordinator}: the port must be from 1 to {_LARGEST_PORT}")
        if not 1 <= self.host_timeout <= _LONGEST_TIMEOUT:
            raise UserError(f"--host-timeout {self.host_timeout}: must be from 1 to {_LONGEST_TIMEOUT} seconds")
        together = self.coordinator is not None, self.hosts is not None, self.host is not None
        if any(together) and not all(together):
            raise UserError("--coordinator, --hosts and --host need each other; give all of them, or none")
        if self.hosts is not None and self.host is not None and not 0 <= self.host < self.hosts:
            raise UserError(f"--host {self.host} is out of range; give a number from 0 to {self.hosts - 1}")


def parse_tasks(text: str) -> range:
    """Tasks as `--tasks` has them: the first and the one after the last.

    Raises:
        UserError: if there are none.
    """
    ends = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    tasks = range(*map(int, ends.groups())) if ends else range(0)
    if not tasks:
        raise UserError(f"--tasks {text} names no tasks; give the first and the one after the last, such as 0:100")
    return tasks


@contextlib.contextmanager
def arguments_of_user() -> Iterator[None]:
    """While it lasts, `sys.argv` has no arguments of a notebook's kernel or of IPython, which stand there too."""
    before = list(sys.argv)
    sys.argv[1:] = _without_those_of_ipython(before)
    try:
        yield
    finally:
        sys.argv[:] = before


def _without_those_of_ipython(argv: list[str]) -> list[str]:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    started = sys.orig_argv[len(sys.orig_argv) - len(argv) + 1 :]
    if shell is not None and not hasattr(sys.modules["__main__"], "__file__") and argv[1:] == started:
        return []  # nobody has set them since
    if argv and _KERNEL.search(argv[0]):
        if argv[1:2] == ["-f"]:
            return argv[3:]
        return [word for word in argv[1:] if not word.startswith(("--f=", "-f="))]
    return argv[1:]


@contextlib.contextmanager
def parser_errors_as_user_errors() -> Iterator[None]:
    """Turns what tyro says of a wrong command line into an error of the user's.

    Raises:
        SystemExit: for `--help`.
        UserError: in place of tyro's box on stderr.
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
    """What a box of tyro's says, without its frame, the help of other options, and where to find more help."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:-1]]
    words = " ".join(line for line in lines if not set(line) <= {"─"})
    words = words.split(" For full helptext")[0].split(" Argument helptext:")[0]
    words = re.sub(r" in \S+ \S+ --help", "", words)  # tyro forgets a part of `python -m supsup_jax COMMAND`
    return f"{words} (--help explains every option)"
