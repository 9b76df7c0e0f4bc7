"""The runs of a sweep as jobs of a cluster: submitted through submitit as one job array, watched, and submitted again.

What a run's job is lies in its folder, so that another process can watch it, or see that it is dead.
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
"""Names the job of a run, in its folder."""

# States of a job in SLURM's queue that are not waiting.
_AT_WORK = ("RUNNING", "COMPLETING")

# Minutes from SLURM's notice to the end of a job's time, and the greatest share of that time.
_NOTICE, _NOTICE_SHARE = 10, 0.25

# The share of the notice in which a run may finish what it is at; the rest is for ending and queueing again.
_FINISHING_SHARE = 0.75

# Minutes of a local job without a limit of its own: a month.
_NO_LIMIT = 31 * 24 * 60

# Variables by which a process knows that SLURM, or submitit, started it.
_INSIDE = ("SLURM_JOB", "SLURM_ARRAY_", "SLURM_STEP", "SLURM_TASK_", "SUBMITIT_")

# What a job has in its environment, by the beginnings of names: of no use to other jobs, and misleading.
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

# Of these, which SLURM is meant, and who pays.
_NOT_OF_JOB = {"SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SBATCH_ACCOUNT"}

# The GPUs that a job has; jobs on other machines get theirs from SLURM.
_GPUS = {"CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"}

# Seconds from one question to SLURM to the next.
_POLL = 5.0

# Seconds after the end of a job until its last files are seen here too, over a network.
_SETTLING = 15.0


@dataclass(frozen=True)
class Cluster:
    """Where runs are submitted to, and what each of them asks for."""

    cluster: Literal["slurm", "local"] | None = None
    """Submit the runs as one job array to SLURM; or, to try that without one, all at once to this machine."""

    partition: str | None = None
    """SLURM: partition of the jobs."""

    time: str | None = None
    """Cluster: limit of each run, as minutes or [D-]HH:MM:SS. A run that needs longer saves what it has, and is queued
    again, up to three times."""

    gpus: int | None = None
    """Cluster: GPUs of each run."""

    cpus: int | None = None
    """SLURM: cores of each run."""

    memory: int | None = None
    """SLURM: memory of each run, in GB."""

    def __post_init__(self) -> None:
        given = [name for name, value in vars(self).items() if name != "cluster" and value is not None]
        if given and self.cluster is None:
            raise UserError(f"--{given[0]} is for runs on a cluster; give --cluster slurm as well, or leave it out")
        for name in ("gpus", "cpus", "memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value} is out of range; give a number from 1")
        if self.time is None and self.cluster == "slurm":
            raise UserError("--cluster slurm needs the limit of each run; give it, such as --time 8:00:00")
        if self.minutes < 1:
            raise UserError(f"--time {self.time} is no limit; give minutes, or [D-]HH:MM:SS such as 8:00:00")

    @property
    def minutes(self) -> int:
        """The limit of each run; 0 if what was given is none."""
        if self.time is None:
            return _NO_LIMIT
        if re.fullmatch(r"\d+", self.time):
            return int(self.time)
        parts = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", self.time)
        days, hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0, 0)
        return (days * 24 + hours) * 60 + minutes + -(-seconds // 60)

    def check(self) -> None:
        """Sees whether runs can be submitted from here.

        Raises:
            UserError: if submitit or the cluster's commands are not there.
        """
        extras.require("cluster", "--cluster")
        if self.cluster == "slurm" and not all(map(shutil.which, ("sbatch", "squeue", "srun"))):
            raise UserError("--cluster slurm needs sbatch, squeue and srun; start it on a machine that has them")

    @property
    def notice(self) -> int:
        """Seconds before the end of its time in which a run finishes what it is at."""
        return int(60 * min(_NOTICE, _NOTICE_SHARE * self.minutes))


class Job:
    """What a member of the array does: goes on with a run, in a process of its own; submitit takes it as it is.

    Args:
        folder: the run's folder.
        finishing: seconds that a run may take to finish what it is at, when the job's time is up.
        program: see `sweep.command_of`.
    """

    def __init__(self, folder: Path, finishing: float, program: tuple[str, ...] = ()):
        self._folder, self._finishing, self._program = folder, finishing, program
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Runs until the run ends.

        Raises:
            RuntimeError: if it fails.
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
        """Saves; called when the job's time is up, or a job of more importance comes.

        Returns:
            What submitit is to queue again; nothing if the run has ended by itself.
        """
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            until = time.monotonic() + self._finishing
            while self._process.poll() is None:
                if time.monotonic() > until:
                    self._process.kill()  # what it has saved is not lost
                time.sleep(sweep.PAUSE)
            if sweep.ending(self._process.returncode) != "interrupted" and self._process.returncode != -signal.SIGKILL:
                return None
        return DelayedSubmission(Job(self._folder, self._finishing, self._program))


@contextlib.contextmanager
def _signals_to_this_process_only() -> Iterator[None]:
    """Processes that are started meanwhile hear SIGINT only, by which the job speaks to its run.

    SLURM sends the others to all of a job's processes. SIGINT may be ignored here: see `_submitted_only`.
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
        members: the runs; those that wait are to have jobs, and may have them already.
        options: where to submit, and what each run asks for.
        folder: for submitit's files.
        program: see `sweep.command_of`.
    """

    def __init__(self, members: Sequence[sweep.Member], options: Cluster, folder: Path, program: tuple[str, ...] = ()):
        self._members, self._options, self._folder = members, options, folder.absolute()
        self._program = program
        self._ids = {member: job for member in members if (job := _read_job(member.folder, options.cluster))}
        self._local: dict[sweep.Member, Any] = {}  # submitit's jobs on this machine that this process has submitted

    def submit(self) -> str:
        """Submits the runs that wait and have no job that lives, as one array.

        Returns:
            What was done, in a sentence or two.

        Raises:
            UserError: if the cluster does not answer, or refuses.
        """
        import submitit

        living = self._living()
        if living is None:
            raise UserError("SLURM does not answer (squeue failed); try again when it does")
        for member in living:
            member.log_start = 0
        new = [member for member in self._members if member.state == "waiting" and member not in living]
        if not new:
            return f"nothing to submit; of these runs {len(living)} are jobs already"
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
            return f"started on this machine: {len(new)} jobs; their own files: {self._folder}"
        array = jobs[0].job_id.partition("_")[0]
        return (
            f"submitted to SLURM: job array {array}, {len(new)} runs; each writes to {sweep.LOG} in its folder, SLURM "
            f"to {self._folder}"
        )

    def watch(self, show: Callable[[Sequence[sweep.Member]], None]) -> None:
        """Follows the jobs until all have ended.

        Args:
            show: called again and again with the runs as they are.
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
        """Notes in which state a run's job is."""
        where = f"as {self._options.cluster} job {self._ids[member]}"
        if state in _AT_WORK:
            member.run(where)
        else:  # also one that is queued again
            member.state, member.where = "waiting", f"{where}, {state.lower()}"

    def _living(self) -> dict[sweep.Member, str] | None:
        """The runs whose jobs wait or run, and in which state; nothing if that cannot be known now."""
        if self._options.cluster == "slurm":
            states = _queue()
            if states is None:
                return None
            return {member: states[job] for member, job in self._ids.items() if job in states}
        alive = (member for member in self._ids if self._runs_here(member))
        return dict.fromkeys(alive, "RUNNING")

    def _runs_here(self, member: sweep.Member) -> bool:
        """Whether a job on this machine goes on: one of this process's, or another's, which uses the folder."""
        if job := self._local.get(member):
            return not job.done()
        try:
            with atomic.locked(member.folder):
                return False
        except UserError:
            return True


def _queue() -> dict[str, str] | None:
    """The user's jobs in SLURM and their states, with the reason where one waits; nothing if SLURM does not answer."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r"]
    # The user's variables may have it leave jobs out.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
        lines = listed.stdout.splitlines()
    except subprocess.SubprocessError:
        return None
    jobs = (line.split("|") for line in lines)
    return {job: state if state in _AT_WORK else f"{state}: {reason}" for job, state, reason in jobs}


def _read_job(folder: Path, cluster: str | None) -> str | None:
    """The job that a run was submitted as to a cluster, if it was."""
    try:
        job = read_yaml(folder / JOB)
        return job["job"] if job["cluster"] == cluster else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


@contextlib.contextmanager
def _outside_a_job(cluster: str | None) -> Iterator[None]:
    """For submitting from within a job: while it lasts, its variables are not in the environment.

    Submitted jobs would inherit them, and take themselves for a part of that job. Outside any job everything stays:
    what is set there, such as SBATCH_PARTITION, is the user's own.
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
    """For submitting: a Ctrl-C goes neither between jobs and their names, nor to jobs that this process starts.

    Raises:
        UserError: if the cluster refuses.
    """
    said = io.StringIO()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with contextlib.redirect_stderr(said):
            yield
    except RuntimeError as error:  # submitit's, with what the cluster's command said
        raise UserError(f"the cluster refuses the jobs ({' '.join(str(error).split())}); ask for what it has") from None
    finally:
        signal.signal(signal.SIGINT, handler)
