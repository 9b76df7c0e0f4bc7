"""Cluster jobs for the runs of a sweep: submitit submits them as one job array, watches and resubmits them.

The job of a run is recorded in the run's folder, so that other processes can watch it and see whether it has ended.
"""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from supsup_jax.cli import sweep
from supsup_jax.errors import UserError
from supsup_jax.system import atomic, extras
from supsup_jax.system.yaml import read_yaml

JOB = "job.yaml"
"""File in a run's folder with the id of its job."""

# SLURM's states of jobs that have started and not ended.
_AT_WORK = ("RUNNING", "COMPLETING")

# Minutes from SLURM's warning signal to the end of a job's time, and their largest fraction of that time.
_NOTICE, _NOTICE_SHARE = 10, 0.25

# Fraction of these minutes in which a run may finish its current tasks; the remaining time is for requeueing.
_FINISHING_SHARE = 0.75

# Time limit of a local job by default, in minutes: 31 days.
_NO_LIMIT = 31 * 24 * 60

# Prefixes of variables that tell a process that SLURM or submitit started it.
_INSIDE = ("SLURM_JOB", "SLURM_ARRAY_", "SLURM_STEP", "SLURM_TASK_", "SUBMITIT_")

# Prefixes of environment variables that describe one job, and would mislead others.
_OF_JOB = (
    "SLURM_",
    "SLURMD_",
    "SRUN_",
    "SBATCH_",
    "SUBMITIT_",
    "PMI_",
    "PMI2_",
    "PMIX_",
    "OMPI_COMM_",
    "OMPI_UNIVERSE_",
)

# Exceptions: variables that select the SLURM cluster and the account.
_NOT_OF_JOB = {"SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SBATCH_ACCOUNT"}

# Variables that select GPUs; SLURM sets them for jobs on other machines.
_GPUS = {"CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"}

# Seconds between two calls of squeue.
_POLL = 5.0

# Seconds after the end of a job until its last files are visible over a network file system.
_SETTLING = 15.0


@dataclass(frozen=True)
class Cluster:
    """The cluster that runs are submitted to, and the resources of each run."""

    cluster: Literal["slurm", "local"] | None = None
    """Submit the runs as one job array to SLURM; `local` starts all of them at once on this machine, for tests."""

    partition: str | None = None
    """With --cluster slurm: partition of the jobs."""

    time: str | None = None
    """With --cluster: time limit of each run, in minutes or as [D-]HH:MM:SS.
    A run that takes longer is saved and requeued, up to three times."""

    gpus: int | None = None
    """With --cluster: GPUs per run."""

    cpus: int | None = None
    """With --cluster slurm: CPU cores per run."""

    memory: int | None = None
    """With --cluster slurm: memory per run, in GB."""

    def __post_init__(self) -> None:
        given = [name for name, value in vars(self).items() if name != "cluster" and value is not None]
        if given and self.cluster is None:
            raise UserError(f"--{given[0]} requires --cluster slurm; give it as well, or leave --{given[0]} out")
        for name in ("gpus", "cpus", "memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: must be at least 1")
        if self.time is None and self.cluster == "slurm":
            raise UserError("--cluster slurm requires the time limit of each run, such as --time 8:00:00")
        if self.minutes < 1:
            raise UserError(f"--time {self.time}: must be minutes, or [D-]HH:MM:SS such as 8:00:00")

    @property
    def minutes(self) -> int:
        """Time limit of each run, in minutes; 0 if `time` is not valid."""
        if self.time is None:
            return _NO_LIMIT
        if re.fullmatch(r"\d+", self.time):
            return int(self.time)
        parts = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", self.time)
        days, hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0, 0)
        return (days * 24 + hours) * 60 + minutes + -(-seconds // 60)

    def check(self) -> None:
        """Check that this machine can submit runs.

        Raises:
            UserError: if submitit or SLURM's commands are not installed.
        """
        extras.require("cluster", "--cluster")
        if self.cluster == "slurm" and not all(map(shutil.which, ("sbatch", "squeue", "srun"))):
            raise UserError("--cluster slurm requires sbatch, squeue and srun; use a machine that has them")

    @property
    def notice(self) -> int:
        """Seconds before the end of a job's time at which SLURM sends the warning signal."""
        return int(60 * min(_NOTICE, _NOTICE_SHARE * self.minutes))


class Job:
    """One job of the array, called by submitit: it resumes a run in a subprocess.

    Args:
        folder: the run's folder.
        finishing: seconds in which the run may finish its current tasks after the warning signal.
        program: see `sweep.command_of`.
    """

    def __init__(self, folder: Path, finishing: float, program: tuple[str, ...] = ()):
        self._folder, self._finishing, self._program = folder, finishing, program
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Start the run and wait until it ends.

        Raises:
            RuntimeError: if the run fails.
        """
        with _signals_to_this_process_only():
            self._process = sweep.start(
                self._folder, sweep.command_of(self._folder, *self._program), stopped_by=signal.SIGINT
            )
        while self._process.poll() is None:  # `wait` would hold a lock that `checkpoint` waits for
            time.sleep(sweep.PAUSE)
        if self._process.returncode:
            log = self._folder / sweep.LOG
            raise RuntimeError(f"the run ended with exit status {self._process.returncode}; {log} says why")

    def checkpoint(self) -> Any:
        """Stop the run after it has saved; submitit calls this before the time limit and before a preemption.

        Returns:
            The submission to requeue, or `None` if the run has ended by itself.
        """
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            until = time.monotonic() + self._finishing
            while self._process.poll() is None:
                if time.monotonic() > until:
                    self._process.kill()  # saved checkpoints are kept
                time.sleep(sweep.PAUSE)
            if sweep.ending(self._process.returncode) != "interrupted" and self._process.returncode != -signal.SIGKILL:
                return None
        return DelayedSubmission(Job(self._folder, self._finishing, self._program))


@contextlib.contextmanager
def _signals_to_this_process_only() -> Iterator[None]:
    """Start subprocesses that react to SIGINT but not to SIGTERM and submitit's signal.

    SLURM sends the latter to all processes of a job; the job stops its run with SIGINT. This process may have inherited
    that SIGINT is ignored: see `_submitted_only`.
    """
    from submitit import JobEnvironment

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]})
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Jobs:
    """The jobs of a sweep's runs.

    Args:
        members: the runs; waiting runs may have jobs already.
        options: the cluster and the resources of each run.
        folder: for submitit's files.
        program: see `sweep.command_of`.
    """

    def __init__(self, members: Sequence[sweep.Member], options: Cluster, folder: Path, program: tuple[str, ...] = ()):
        self._members, self._options, self._folder = members, options, folder.absolute()
        self._program = program
        self._ids = {member: job for member in members if (job := _read_job(member.folder, options.cluster))}
        self._local: dict[sweep.Member, Any] = {}  # local jobs that this process has submitted

    def submit(self) -> str:
        """Submit all waiting runs without a queued or running job, as one job array.

        Returns:
            A message about the submitted jobs.

        Raises:
            UserError: if the cluster does not answer or refuses the jobs.
        """
        import submitit

        living = self._living()
        if living is None:
            raise UserError("SLURM does not answer (squeue failed); try again later")
        for member in living:
            member.log_start = 0
        new = [member for member in self._members if member.state == "waiting" and member not in living]
        if not new:
            return f"nothing to submit: {len(living)} of these runs have jobs already"
        options = self._options
        executor = submitit.AutoExecutor(self._folder, cluster=options.cluster)
        executor.update_parameters(
            name=self._folder.parent.name,
            timeout_min=options.minutes,
            gpus_per_node=options.gpus,
            cpus_per_task=options.cpus,
            mem_gb=options.memory,
            stderr_to_stdout=True,
            slurm_partition=options.partition,
            slurm_signal_delay_s=options.notice,
        )
        finishing = _FINISHING_SHARE * options.notice
        with _submitted_only(), _outside_a_job(options.cluster):
            jobs = executor.submit_array([Job(member.folder.absolute(), finishing, self._program) for member in new])
            for member, job in zip(new, jobs, strict=True):
                self._ids[member] = job.job_id
                text = yaml.safe_dump({"cluster": options.cluster, "job": job.job_id})
                (member.folder / JOB).write_text(text)
        if options.cluster == "local":
            self._local = dict(zip(new, jobs, strict=True))
            return f"started {len(new)} jobs on this machine; files of submitit: {self._folder}"
        array = jobs[0].job_id.partition("_")[0]
        return (
            f"submitted to SLURM: job array {array}, {len(new)} runs; output of each run: {sweep.LOG} in its folder; "
            f"files of SLURM: {self._folder}"
        )

    def watch(self, show: Callable[[Sequence[sweep.Member]], None]) -> None:
        """Update the states of the runs until all jobs have ended.

        Args:
            show: called repeatedly with the runs.
        """
        poll, settling = (_POLL, _SETTLING) if self._options.cluster == "slurm" else (sweep.PAUSE, 0)
        gone: dict[sweep.Member, float] = {}
        while following := [member for member in self._members if member.state in ("waiting", "running")]:
            living = self._living()
            for member in following if living is not None else []:
                if living and member in living:
                    gone.pop(member, None)
                    self._follow(member, living[member])
                elif member.is_finished():
                    member.end("finished")
                elif time.monotonic() - gone.setdefault(member, time.monotonic()) >= settling:
                    member.end("failed")
            show(self._members)
            time.sleep(poll)
        show(self._members)

    def _follow(self, member: sweep.Member, state: str) -> None:
        """Set a run's state from the state of its job."""
        where = f"as {self._options.cluster} job {self._ids[member]}"
        if state in _AT_WORK:
            member.run(where)
        else:  # also if the job was requeued
            member.state, member.where = "waiting", f"{where}, {state.lower()}"

    def _living(self) -> dict[sweep.Member, str] | None:
        """Return the state of each queued or running job by its run, or `None` if SLURM does not answer."""
        if self._options.cluster == "slurm":
            states = _queue()
            if states is None:
                return None
            return {member: states[job] for member, job in self._ids.items() if job in states}
        alive = (member for member in self._ids if self._runs_here(member))
        return dict.fromkeys(alive, "RUNNING")

    def _runs_here(self, member: sweep.Member) -> bool:
        """Return whether a local job, started by this or another process, still runs."""
        if job := self._local.get(member):
            return not job.done()
        try:
            with atomic.locked(member.folder):
                return False
        except UserError:
            return True


def _queue() -> dict[str, str] | None:
    """Return the state of each of the user's SLURM jobs, with the reason if it waits; `None` if squeue fails."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r"]
    # With SQUEUE_ variables, squeue may omit jobs.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
        lines = listed.stdout.splitlines()
    except subprocess.SubprocessError:
        return None
    jobs = (line.split("|") for line in lines)
    return {job: state if state in _AT_WORK else f"{state}: {reason}" for job, state, reason in jobs}


def _read_job(folder: Path, cluster: str | None) -> str | None:
    """Return the id of the job that a run was submitted as to a cluster, or `None`."""
    try:
        job = read_yaml(folder / JOB)
        return job["job"] if job["cluster"] == cluster else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


@contextlib.contextmanager
def _outside_a_job(cluster: str | None) -> Iterator[None]:
    """Remove the variables of a surrounding job from the environment, so that submitted jobs do not inherit them.

    With them, the new jobs would behave as parts of that job. Outside a job nothing is removed, since variables such as
    SBATCH_PARTITION are then set by the user.
    """
    removed = {}
    if any(name.startswith(_INSIDE) for name in os.environ):
        removed = {
            name: value
            for name, value in os.environ.items()
            if (name.startswith(_OF_JOB) and name not in _NOT_OF_JOB) or (cluster == "slurm" and name in _GPUS)
        }
    for name in removed:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(removed)


@contextlib.contextmanager
def _submitted_only() -> Iterator[None]:
    """Ignore Ctrl-C while jobs are submitted and their ids are written; local jobs inherit this.

    Raises:
        UserError: if the cluster refuses the jobs.
    """
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except RuntimeError as error:  # submitit's, with the output of the cluster's command
        raise UserError(
            f"the cluster refuses the jobs ({' '.join(str(error).split())}); ask for resources that it has"
        ) from None
    finally:
        signal.signal(signal.SIGINT, handler)
