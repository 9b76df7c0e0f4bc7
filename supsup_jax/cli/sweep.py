"""Sweeps: many runs of an experiment in separate processes, each on the next free set of devices."""

import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jax

from supsup_jax.cli.program import PACKAGE
from supsup_jax.errors import UserError
from supsup_jax.runs import results
from supsup_jax.system import interruption

LOG = "log.txt"
"""File in a run's folder with the output of the run in a sweep."""

PAUSE = 0.2
"""Seconds between two checks of the processes."""

# Seconds after SIGTERM until a process is killed.
_PATIENCE = 10.0

# Bytes at the end of a log that are read for its last lines.
_LOG_BYTES = 8192

State = Literal["waiting", "running", "finished", "failed", "interrupted"]


@dataclass(eq=False)
class Member:
    """One run of a sweep.

    Attributes:
        folder: the run's folder, which contains its settings.
        evaluations: numbers of tasks after which the run is evaluated; after the last, it is finished.
        state: state of the run.
        where: the device or job, or the reason for waiting, as text.
        started: time of its start by `time.monotonic`, if it has started.
        ended: time of its end by `time.monotonic`, if it has ended.
        log_start: offset in its log at which the output of this attempt begins.
    """

    folder: Path
    evaluations: Sequence[int]
    state: State = "waiting"
    where: str = ""
    started: float | None = None
    ended: float | None = None
    log_start: int = field(init=False)

    def __post_init__(self) -> None:
        if self.is_finished():
            self.state = "finished"
        log = self.folder / LOG
        self.log_start = log.stat().st_size if log.exists() else 0

    def is_finished(self) -> bool:
        """Return whether the run's folder contains all evaluations."""
        return results.is_finished(self.folder, self.evaluations)

    def run(self, where: str) -> None:
        """Set the state to running, on this device or job."""
        self.state, self.where, self.started = "running", where, self.started or time.monotonic()

    def end(self, state: State) -> None:
        """Set the final state."""
        self.state, self.ended = state, time.monotonic()

    @property
    def seconds(self) -> float | None:
        """Duration of the run up to now or its end; `None` before its start."""
        return None if self.started is None else (self.ended or time.monotonic()) - self.started

    def last_lines(self) -> list[str]:
        """Return the last non-empty lines of this attempt in the log, from its last `_LOG_BYTES` bytes."""
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(max(self.log_start, file.seek(0, os.SEEK_END) - _LOG_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if line.strip()]


def parse_sets(text: str) -> list[str]:
    """Parse the value of `--gpu-sets`: sets separated by |, the devices of a set by commas.

    Returns:
        A value of `CUDA_VISIBLE_DEVICES` for each set.

    Raises:
        UserError: if a set or a device is empty, or a device is repeated.
    """
    sets = [[device.strip() for device in devices.split(",")] for devices in text.split("|")]
    devices = [device for devices in sets for device in devices]
    if not all(re.fullmatch(r"[\w./:-]+", device) for device in devices):
        raise UserError(
            f'--gpu-sets "{text}": must be sets of devices separated by |, with commas between the devices of a set, '
            'such as "0,1|2,3"'
        )
    for device in devices:
        if devices.count(device) > 1:
            raise UserError(f'--gpu-sets "{text}": device {device} is repeated; give every device to one set')
    return [",".join(devices) for devices in sets]


def all_devices() -> list[str | None]:
    """Return a set of one device for every GPU that JAX can use, or `[None]` for the CPU if there is no GPU.

    This does not call JAX, because a process that lists its GPUs with JAX reserves memory that the runs need.
    """
    can_use = any("cuda" in plugin.name for plugin in importlib.metadata.entry_points(group="jax_plugins"))
    if not can_use or jax.config.jax_platforms == "cpu":  # pyright: ignore[reportAttributeAccessIssue]
        return [None]
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        devices = [device.strip() for device in visible.split(",")]
        return [device for device in devices if device not in ("", "-1")] or [None]
    if not shutil.which("nvidia-smi"):
        return [None]
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return re.findall(r"^GPU (\d+):", listed, re.MULTILINE) or [None]


def start(
    folder: Path,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    stopped_by: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start the process of a run, with its output in its log; a Ctrl-C in the terminal does not reach it.

    If this process dies, the run is sent a signal on Linux (where `setpriv` is installed), and continues elsewhere.

    Args:
        folder: the run's folder.
        command: the command line of the process.
        environment: variables to set.
        stopped_by: the signal to send to the run if this process dies.
    """
    if shutil.which("setpriv"):
        command = ["setpriv", "--pdeathsig", stopped_by.name.removeprefix("SIG"), *command]
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )


def command_of(folder: Path, *program: str) -> list[str]:
    """Return the command that resumes the run in a folder.

    Args:
        folder: the run's folder.
        program: arguments of Python that start the program; by default this package (see `program.program_of`).
    """
    return [sys.executable, *(program or PACKAGE), "run", str(folder)]


def run(
    members: Sequence[Member],
    sets: Sequence[str | None],
    show: Callable[[Sequence[Member]], None],
    announce: Callable[[float], None],
    command: Callable[[Path], list[str]] = command_of,
) -> None:
    """Run the waiting members in order, each on the next free set of devices, until all have ended.

    Args:
        members: the runs of the sweep.
        sets: a value of `CUDA_VISIBLE_DEVICES` for each set, or `None` for the CPU.
        show: called repeatedly with the runs.
        announce: called in another thread on an interruption, with the seconds that the runs have to save.
        command: returns the command line of a run, given its folder.

    Raises:
        KeyboardInterrupt: if a run was not finished because of an interruption.
    """
    waiting = deque(member for member in members if member.state == "waiting")
    free = deque(sets)
    running: dict[Member, tuple[subprocess.Popen[bytes], str | None]] = {}
    asked: set[Member] = set()
    with interruption.graceful(announce) as interrupted:
        try:
            while running or (waiting and not interrupted.times):
                while waiting and free and not interrupted.times:
                    member, devices = waiting.popleft(), free.popleft()
                    environment = {interruption.GRACE: "inf"}  # this process enforces the time limit
                    if devices is not None:
                        environment["CUDA_VISIBLE_DEVICES"] = devices
                    running[member] = start(member.folder, command(member.folder), environment), devices
                    member.run("on the CPU" if devices is None else f"on set {devices}")
                for member, (process, devices) in list(running.items()):
                    if process.poll() is not None:
                        member.end(ending(process.returncode))
                        free.append(devices)
                        del running[member]
                    elif interrupted.times and member not in asked:
                        process.terminate()
                        asked.add(member)
                if interrupted.is_pressing:
                    break
                show(members)
                time.sleep(PAUSE)
        finally:
            _end_at_once({member: process for member, (process, _) in running.items()})
            show(members)
    if any(member.state in ("waiting", "interrupted") for member in members):
        raise interrupted.kind()


def ending(status: int) -> State:
    """Return the final state of a run from the exit status of its process."""
    if status == 0:
        return "finished"
    asked = {end for number in interruption.SIGNALS for end in (128 + number, -number)}
    return "interrupted" if status in asked else "failed"


def _end_at_once(running: Mapping[Member, subprocess.Popen[bytes]]) -> None:
    """Stop processes at once, with SIGTERM and then SIGKILL; their saved checkpoints are kept."""
    for process in running.values():
        process.terminate()
    until = time.monotonic() + _PATIENCE
    for member, process in running.items():
        try:
            process.wait(max(0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        member.end("interrupted")
