"""Reproduction of the paper's numbers: plan the missing runs, run their scripts, and stop at the time limit."""

import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from supsup_jax.data.presence import is_present
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.paper import planning, scripts
from supsup_jax.paper.calibration import calibrated_rates
from supsup_jax.paper.planning import Job, Plan, Rates
from supsup_jax.paper.reproduction import Number
from supsup_jax.runs import composition, results
from supsup_jax.runs.tables import Run, find_runs
from supsup_jax.system import backend, interruption
from supsup_jax.system.durations import duration

PAUSE = 0.2
"""Seconds between two checks of a running script."""

# Seconds after the grace period until a script is killed.
_PATIENCE = 10.0


@dataclass(frozen=True)
class Request:
    """Numbers to reproduce, folders and time budget.

    Attributes:
        runs: folder of the runs.
        data: folder with data sets.
        wanted: numbers of the paper.
        seeds: seeds to run for each number; by default one run with any seed is enough.
        budget: time limit for all runs, in seconds.
        earlier: folders of runs that were made before; their numbers are not missing.
    """

    runs: Path
    data: Path
    wanted: Sequence[Number]
    seeds: Sequence[int] | None = None
    budget: float = math.inf
    earlier: Sequence[Path] = ()

    def found(self) -> list[Run]:
        """Return all runs that exist.

        Raises:
            UserError: if files of a run are damaged.
        """
        return [run for folder in (self.runs, *self.earlier) for run in find_runs(folder)]

    @property
    def grace(self) -> float:
        """Seconds that a script has to save its current tasks at the time limit or on an interruption."""
        return min(interruption.grace(), self.budget / 10)


class Planner:
    """Planner of the missing runs, which caches calibrated rates between plans."""

    def __init__(self, request: Request):
        if not scripts.FOLDER.is_dir():
            raise UserError(f"{scripts.FOLDER} does not exist; --run and --plan require a checkout of the repository")
        self._request = request
        self._calibrated: dict[tuple[Any, ...], Rates] = {}
        self._machine = _this_machine()

    def plan(self, runs: Sequence[Run], budget: float) -> Plan:
        """Return the missing runs that fit the budget.

        Args:
            runs: existing runs.
            budget: remaining seconds.
        """
        trained = (run for run in runs if not (run.about.get("options") or {}).get("learned_in"))
        local = [run for run in trained if _machine(run.about) == self._machine]

        def rates_of(experiment: Experiment) -> Rates:
            kind = planning.kind(experiment)
            of_kind = [run for run in local if planning.kind(scripts.with_defaults(run)) == kind]
            named = [run for run in of_kind if run.name == experiment.name]

            def guess() -> Rates:
                if kind not in self._calibrated:
                    self._calibrated[kind] = calibrated_rates(experiment)
                return self._calibrated[kind]

            measured = planning.measured_rates(named, guess) or planning.measured_rates(of_kind, guess)
            return measured or guess()

        request = self._request
        everything = planning.missing(
            request.wanted,
            runs,
            scripts.script_of,
            rates_of,
            request.seeds,
            lambda name: is_present(name, request.data),
        )
        return planning.fit(everything, budget)


def _machine(about: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the facts in `settings.yaml` that distinguish machines of different speed."""
    return about.get("cores"), about.get("platform"), frozenset(about.get("devices") or ())


def _this_machine() -> tuple[Any, ...]:
    """Return these facts for this machine, without reserving GPU memory, which the runs need."""
    preallocate = "XLA_PYTHON_CLIENT_PREALLOCATE"
    before = os.environ.get(preallocate)
    os.environ[preallocate] = "false"
    devices = [str(device.device_kind) for device in jax.devices()]
    if before is None:
        del os.environ[preallocate]
    else:
        os.environ[preallocate] = before
    return _machine({"cores": backend.cores(), "platform": platform.platform(), "devices": devices})


def show_plan(plan: Plan, budget: float) -> str:
    """Return a plan as text, with a line for each run."""
    within = "" if math.isinf(budget) else f", within {duration(budget)}"
    total = f", about {duration(plan.seconds)}" if plan.jobs else ""
    lines = [f"{len(plan.jobs)} runs to make{total}{within}"]
    for job in plan.jobs:
        learned = min(job.learned, job.experiment.num_tasks)
        resumed = f", {learned} of them learned" if learned else ""
        where = f" in {job.learned_in}" if job.learned_in else ""
        tasks = f"{job.experiment.num_tasks:,} tasks{resumed}{where}"
        lines.append(f"  {job.title}: {tasks}, about {duration(job.seconds)}")
    if plan.left_out:
        lines += ["left out or shortened:", *(f"  {line}" for line in plan.left_out)]
    return "\n".join(lines)


def reproduce(
    request: Request,
    write: Callable[[Sequence[Run]], None],
    say: Callable[[str], None],
    output: int | None = None,
) -> list[str]:
    """Make the missing runs one after another, as long as they fit the budget.

    After each run, the remaining runs are planned again with the measured times.

    Args:
        request: numbers, folders and budget.
        write: called with all runs at the start and after each run.
        say: called with each line of output.
        output: file descriptor for the scripts' output; by default this process's stdout.

    Returns:
        The titles of failed runs.

    Raises:
        KeyboardInterrupt: after an interruption.
        UserError: if a run in the folder is damaged, or there are no scripts.
    """
    deadline = time.monotonic() + request.budget
    ends = math.inf if math.isinf(deadline) else deadline - request.grace
    planner = Planner(request)
    runs = request.found()
    plan = planner.plan(runs, request.budget)
    say(show_plan(plan, request.budget))
    tried: dict[tuple[Any, ...], int] = {}
    failed: list[str] = []
    farewell = "learned tasks are saved; the same command resumes"
    with interruption.graceful(lambda _: say("interrupted: the run saves its current tasks and ends")) as interrupted:
        write(runs)
        while job := next((job for job in plan.jobs if job.experiment.num_tasks > tried.get(job.key, 0)), None):
            tried[job.key] = job.experiment.num_tasks
            say(f"{job.title}, {job.experiment.num_tasks:,} tasks, about {duration(job.seconds)}")
            status = run_script(job, request, ends, interrupted, output)
            in_time = not interrupted.times and time.monotonic() < ends
            if status and job.learned_in and in_time and not _can_resume(job, request.runs):
                say(f"{job.title} failed with tasks of {job.learned_in}; starting again without them")
                status = run_script(job.alone(), request, ends, interrupted, output)
            runs = request.found()
            write(runs)
            if interrupted.times:
                raise interrupted.kind(farewell)
            if time.monotonic() > ends:
                say(f"the budget is used up; {farewell}")
                break
            if status:
                failed.append(job.title)
                say(f"{job.title} failed with status {status}")
            plan = planner.plan(runs, deadline - time.monotonic())
    return failed


def command_of(job: Job, request: Request) -> list[str]:
    """Return the command line of a script for a run."""
    experiment = job.experiment
    words = [sys.executable, str(job.script), "--data", str(request.data), "--log-dir", str(request.runs)]
    words += ["--seed", str(experiment.seed), "--num-tasks", str(experiment.num_tasks)]
    _, scale, _ = job.key
    if scale is not None:
        words += ["--sparsity", f"{scale:g}"]
    if job.learned_in is not None:
        words += ["--learned-in", str(job.learned_in)]
    return [*words, "--resume"] if _can_resume(job, request.runs) else words


def _can_resume(job: Job, runs: Path) -> bool:
    """Return whether there is an earlier run with these settings; otherwise `--resume` could fail."""
    _, scale, _ = job.key
    sparsity = "" if scale is None else f"~sparsity={scale:g}"
    folders = results.existing_folders(runs / job.experiment.name, f"seed={job.experiment.seed}{sparsity}")
    known = filter(None, map(results.read_settings, filter(results.has_checkpoints, folders)))
    return any(not composition.differences(job.experiment, settings["experiment"]) for settings in known)


def run_script(
    job: Job, request: Request, until: float, interrupted: interruption.Interruption, output: int | None = None
) -> int:
    """Run a script until it ends; at the time limit or on an interruption, send it a signal to save and end.

    On Linux the script is also sent SIGTERM when this process dies.

    Args:
        job: the run.
        request: folders and grace period.
        until: time limit by `time.monotonic`.
        interrupted: state of interruptions of this process.
        output: file descriptor for the script's output; by default this process's stdout.

    Returns:
        The exit status.
    """
    command = command_of(job, request)
    if shutil.which("setpriv"):
        command = ["setpriv", "--pdeathsig", "TERM", *command]
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        interruption.GRACE: str(request.grace),
    }
    # In a new session, a Ctrl-C reaches the script only through this process, once.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, env=environment, start_new_session=True
    )
    asked, killed = 0, math.inf
    try:
        while process.poll() is None:
            is_over = math.isinf(killed) and time.monotonic() > until
            if interrupted.times > asked or is_over:
                asked = interrupted.times
                by_hand = asked > 0 and interrupted.kind is not interruption.Terminated
                process.send_signal(signal.SIGINT if by_hand else signal.SIGTERM)
                if not by_hand:
                    killed = time.monotonic() + request.grace + _PATIENCE
            if time.monotonic() > killed:
                process.kill()
            time.sleep(PAUSE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode
