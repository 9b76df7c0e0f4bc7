"""Many runs of an experiment, each in a process of its own: the next one goes to the next free set of devices."""

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
"""What a run of a sweep says, in its folder."""

PAUSE = 0.2
"""Seconds from one look at the runs to the next."""

# How long a process that was told to end at once may take.
_PATIENCE = 10.0

# The end of a log that is looked at for its last lines.
_LOG_BYTES = 8192

State = Literal["waiting", "running", "finished", "failed", "interrupted"]


@dataclass(eq=False)
class Member:
    """One run of a sweep.

    Attributes:
        folder: its folder, which holds its settings.
        evaluations: the numbers of tasks after which it is evaluated; after the last it is finished.
        state: how far it is.
        where: what it runs on, or waits for, in a few words.
        started: when it began to run, if it did, by `time.monotonic`.
        ended: when it ended, if it did.
        log_start: where in its log the lines of this attempt begin.
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
        """Whether its folder holds all that it is to compute."""
        return results.is_finished(self.folder, self.evaluations)

    def run(self, where: str) -> None:
        """Notes that it runs."""
        self.state, self.where, self.started = "running", where, self.started or time.monotonic()

    def end(self, state: State) -> None:
        """Notes how it ended."""
        self.state, self.ended = state, time.monotonic()

    @property
    def seconds(self) -> float | None:
        """How long it has been running, if it has."""
        return None if self.started is None else (self.ended or time.monotonic()) - self.started

    def last_lines(self) -> list[str]:
        """The last lines that this attempt has written to its log, some kilobytes, without empty ones."""
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(max(self.log_start, file.seek(0, os.SEEK_END) - _LOG_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if line.strip()]


def parse_sets(text: str) -> list[str]:
    """Sets of devices as `--gpu-sets` has them: separated by |, several devices in a set by commas.

    Returns:
        Every set as `CUDA_VISIBLE_DEVICES` takes it.

    Raises:
        UserError: if there is an empty set or device, or a device twice.
    """
    sets = [[device.strip() for device in devices.split(",")] for devices in text.split("|")]
    devices = [device for devices in sets for device in devices]
    if not all(re.fullmatch(r"[\w./:-]+", device) for device in devices):
        raise UserError(
            f'--gpu-sets "{text}" is not understood; give sets of devices separated by |, several devices in a set by '
            'commas, such as "0,1|2,3"'
        )
    for device in devices:
        if devices.count(device) > 1:
            raise UserError(f'--gpu-sets "{text}" has device {device} twice; give every device to one set')
    return [",".join(devices) for devices in sets]


def all_devices() -> list[str | None]:
    """Every GPU that JAX can use as a set of its own, or else the CPU: nothing. JAX itself is not asked.

    A process that asks JAX for its GPUs takes their memory, which the runs are to have.
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
    """Starts the process of a run. What it says goes to its log, and the terminal's Ctrl-C does not reach it.

    On Linux it is asked to end if this process dies; elsewhere it goes on then.

    Args:
        folder: the run's folder.
        command: what to start.
        environment: variables to set.
        stopped_by: the signal that asks it to end.
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
    """The command that resumes the run in a folder.

    Args:
        folder: the run's folder.
        program: the arguments of Python that start a program with the run's parts; by default this package.
    """
    return [sys.executable, *(program or PACKAGE), "run", str(folder)]


def run(
    members: Sequence[Member],
    sets: Sequence[str | None],
    show: Callable[[Sequence[Member]], None],
    announce: Callable[[float], None],
    command: Callable[[Path], list[str]] = command_of,
) -> None:
    """Runs those that wait, in order, each on the next free set of devices, until all have ended.

    Args:
        members: the runs of the sweep.
        sets: each as `CUDA_VISIBLE_DEVICES` takes it, or nothing for the CPU.
        show: called again and again with the runs as they are.
        announce: called, in another thread, when an end is asked for, with the seconds that there are for it.
        command: starts a run, given its folder.

    Raises:
        KeyboardInterrupt: if a run was not finished because an end was asked for.
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
                    environment = {interruption.GRACE: "inf"}  # how long they may take is known here
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
    """What the exit status of a run's process says of it."""
    if status == 0:
        return "finished"
    asked = {end for number in interruption.SIGNALS for end in (128 + number, -number)}
    return "interrupted" if status in asked else "failed"


def _end_at_once(running: Mapping[Member, subprocess.Popen[bytes]]) -> None:
    """Ends processes that have been asked already; what they have saved is not lost."""
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
