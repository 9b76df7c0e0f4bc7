import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from supsup_jax import UserError
from supsup_jax.cli import cluster, sweep
from supsup_jax.cli.cluster import Cluster, Job, Jobs
from supsup_jax.runs import results

QUICKSTART = Path(__file__).parents[2] / "experiments/quickstart.py"
TINY = ["--num-tasks", 2, "--steps", 5, "--width", 0.1, "--images-per-task", 8, "--eval-at", 2, "--seeds", 2]
LONG = [*TINY, "--num-tasks", 16, "--steps", 2000, "--tasks-at-once", 1]


def waited_for(condition):
    """Return whether a condition holds within five minutes."""
    for _ in range(1500):
        if condition():
            return True
        time.sleep(0.2)
    return False


def command(*arguments):
    return [sys.executable, str(QUICKSTART), *map(str, arguments)]


def call(*arguments, cwd):
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd)


def seeds_of(folder):
    return [folder / f"runs/quickstart/seed={seed}" for seed in range(2)]


def job_of(folder):
    return yaml.safe_load((folder / cluster.JOB).read_text())["job"]


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("8:00:00", 480), ("1-00:00:00", 1440), ("2-01:30:01", 2 * 1440 + 91), ("0:00:10", 1)],
)
def test_limits_are_minutes_or_days_and_hours(time, minutes):
    assert Cluster("slurm", time=time).minutes == minutes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cluster": "slurm", "time": "soon"}, "--time soon: must be minutes"),
        ({"cluster": "slurm", "time": "0"}, "--time 0: must be minutes"),
        ({"cluster": "slurm", "time": "8:00"}, "--time 8:00: must be minutes"),
        ({"cluster": "slurm"}, "--cluster slurm requires the time limit of each run"),
        ({"gpus": 1}, "--gpus requires --cluster slurm"),
        ({"cluster": "local", "gpus": 0}, "--gpus 0: must be at least 1"),
        ({"cluster": "local", "memory": -1}, "--memory -1: must be at least 1"),
    ],
)
def test_invalid_options_raise_one_clear_error(options, words):
    with pytest.raises(UserError, match=words):
        Cluster(**options)


def test_without_submitit_or_slurm_the_error_says_what_to_do(monkeypatch, tmp_path):
    options = Cluster("slurm", time="10")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="requires sbatch, squeue and srun"):
        options.check()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'supsup_jax\[cluster\]'"):
        options.check()


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """Return a function that makes a job which runs a shell script instead of training, with its folder as $1."""

    def make(script, finishing=60.0):
        monkeypatch.setattr(sweep, "command_of", lambda folder: ["bash", "-c", script, "run", str(folder)])
        return Job(tmp_path, finishing)

    return make


def test_a_job_ends_as_its_run_does(scripted, tmp_path):
    scripted('echo output; touch "$1/done"')()
    assert (tmp_path / "done").exists()
    assert (tmp_path / sweep.LOG).read_text() == "output\n"
    with pytest.raises(RuntimeError, match=r"exit status 3; .*log\.txt says why"):
        scripted("exit 3")()


def checkpointed(job, tmp_path):
    """Return the result of `job.checkpoint()`, called in a signal handler while the job runs, as submitit does."""
    submissions = []

    def time_is_up(*_):
        submissions.append(job.checkpoint())
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, time_is_up)
    waiting = f"until [ -e {tmp_path}/ready ]; do sleep 0.05; done; kill -USR1 {os.getpid()}"
    with subprocess.Popen(["bash", "-c", waiting]), pytest.raises(InterruptedError):
        job()
    signal.signal(signal.SIGUSR1, before)
    return submissions[0]


AT_WORK = 'touch "$1/ready"; while :; do sleep 0.05; done'


@pytest.mark.parametrize("status", [130, 143])
def test_at_its_time_limit_a_job_lets_the_run_save_and_is_requeued(scripted, tmp_path, status):
    job = scripted(f'trap "touch $1/saved; exit {status}" INT; {AT_WORK}')
    again = checkpointed(job, tmp_path)
    assert (tmp_path / "saved").exists()
    assert isinstance(pickle.loads(pickle.dumps(again)).function, Job)


def test_a_run_that_takes_too_long_to_save_is_killed_and_requeued(scripted, tmp_path):
    assert checkpointed(scripted(f"trap '' INT; {AT_WORK}", finishing=0.5), tmp_path) is not None


@pytest.mark.parametrize("status", [0, 3])
def test_a_run_that_ends_at_its_time_limit_is_not_requeued(scripted, tmp_path, status):
    assert checkpointed(scripted(f'trap "exit {status}" INT; {AT_WORK}'), tmp_path) is None


def test_signals_to_all_processes_of_a_job_do_not_reach_its_run(scripted, tmp_path):
    scripted('trap "echo $1 >> $1/caught; exit" INT TERM USR2; kill -TERM $$; kill -USR2 $$; touch "$1/done"')()
    assert (tmp_path / "done").exists() and not (tmp_path / "caught").exists()


@pytest.fixture
def on_slurm(tmp_path, monkeypatch):
    """Two runs of a job array, their jobs, and a function that sets the lines that a fake `squeue` prints."""
    folders = [tmp_path / f"seed={seed}" for seed in range(2)]
    for place, folder in enumerate(folders):
        folder.mkdir()
        (folder / cluster.JOB).write_text(yaml.safe_dump({"cluster": "slurm", "job": f"7_{place}"}))
    program = tmp_path / "bin/squeue"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(cluster, "_POLL", 0.05)
    monkeypatch.setattr(cluster, "_SETTLING", 0.2)

    def answers(*lines):
        script = "exit 1" if lines == (None,) else "".join(f"echo '{line}';" for line in lines)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    members = [sweep.Member(folder, [2]) for folder in folders]
    return members, Jobs(members, Cluster("slurm", time="10"), tmp_path / "cluster"), answers


def test_jobs_in_the_queue_are_watched_and_not_submitted_again(on_slurm):
    members, jobs, answers = on_slurm
    answers("7_0|PENDING|Resources", "7_1|RUNNING|None", "8|RUNNING|None")
    assert "2 of these runs have jobs already" in jobs.submit()
    seen = []

    def show(members):
        seen.append([(member.state, member.where) for member in members])
        answers("7_1|PENDING|BeginTime") if len(seen) == 1 else answers()

    jobs.watch(show)
    assert seen[0] == [("waiting", "as slurm job 7_0, pending: resources"), ("running", "as slurm job 7_1")]
    assert seen[1][1] == ("waiting", "as slurm job 7_1, pending: begintime")
    assert [member.state for member in members] == ["failed", "failed"]


def test_an_ended_job_is_finished_when_its_files_appear(on_slurm):
    members, jobs, answers = on_slurm
    answers()
    shown = []

    def show(members):
        shown.append([member.state for member in members])
        if len(shown) == 2:
            line = '{"kind": "evaluation", "num_tasks": 2}\n'
            (members[0].folder / "metrics.jsonl").write_text(line)

    jobs.watch(show)
    assert shown[0] == ["waiting", "waiting"]
    assert [member.state for member in members] == ["finished", "failed"]


def test_while_slurm_does_not_answer_no_job_is_submitted_or_failed(on_slurm):
    _, jobs, answers = on_slurm
    answers(None)
    with pytest.raises(UserError, match="SLURM does not answer"):
        jobs.submit()
    shown = []

    def show(members):
        shown.append([member.state for member in members])
        if len(shown) == 10:
            answers("7_0|RUNNING|None", "7_1|RUNNING|None")
        if len(shown) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.watch(show)
    assert shown[8] == ["waiting", "waiting"] and shown[-1] == ["running", "running"]


OF_JOB = {
    "SLURM_JOB_ID": "5",
    "SLURM_ARRAY_JOB_ID": "5",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_MEM_PER_CPU": "100",
    "SRUN_CPUS_PER_TASK": "7",
    "SBATCH_PARTITION": "nowhere",
    "SUBMITIT_EXECUTOR": "slurm",
    "PMI_RANK": "0",
    "CUDA_VISIBLE_DEVICES": "6",
}
CLUSTER = {"SLURM_CONF": "/own/slurm.conf", "SBATCH_ACCOUNT": "mine", "SQUEUE_STATES": "RUNNING"}


@pytest.fixture
def submission(tmp_path, monkeypatch):
    """Return a function that submits a run with fake commands, and returns the environments of sbatch and squeue."""
    for program, script in (("sbatch", "echo Submitted batch job 9"), ("squeue", ""), ("srun", "")):
        path = tmp_path / f"bin/{program}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\nenv > {tmp_path}/{program}.env\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)

    def submitted(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        folder = tmp_path / "seed=0"
        folder.mkdir()
        Jobs([sweep.Member(folder, [2])], Cluster("slurm", time="10"), tmp_path / "cluster").submit()
        assert variables.items() <= os.environ.items()
        lines = [(tmp_path / f"{program}.env").read_text().splitlines() for program in ("sbatch", "squeue")]
        return [dict(line.split("=", 1) for line in of_program if "=" in line) for of_program in lines]

    return submitted


def test_inside_a_job_others_are_submitted_with_a_clean_environment(submission):
    sbatch, squeue = submission(OF_JOB | CLUSTER)
    assert not sbatch.keys() & OF_JOB.keys()
    assert (sbatch["SLURM_CONF"], sbatch["SBATCH_ACCOUNT"]) == ("/own/slurm.conf", "mine")
    assert "SQUEUE_STATES" not in squeue and squeue["SLURM_CONF"] == "/own/slurm.conf"


def test_outside_a_job_the_users_variables_are_kept(submission):
    variables = {"SBATCH_PARTITION": "gpu", "SLURM_MPI_TYPE": "pmix", "CUDA_VISIBLE_DEVICES": "1"}
    sbatch, _ = submission(variables | CLUSTER)
    assert variables.items() <= sbatch.items()


def test_local_jobs_do_not_inherit_variables_of_a_surrounding_job(monkeypatch):
    for name, value in OF_JOB.items():
        monkeypatch.setenv(name, value)
    with cluster._outside_a_job("local"):
        assert {name for name in OF_JOB if name in os.environ} == {"CUDA_VISIBLE_DEVICES"}
    assert OF_JOB.items() <= os.environ.items()


@pytest.mark.thorough
def test_local_jobs_outlive_the_watching_process_and_are_resumed(tmp_path):
    # A shell's background jobs ignore Ctrl-C, and so do the processes that they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command(*TINY, "--cluster", "local"), cwd=tmp_path, text=True, stderr=subprocess.PIPE, start_new_session=True
    ) as watching:
        signal.signal(signal.SIGINT, before)
        assert waited_for(lambda: all((seed / "checkpoints").exists() for seed in seeds_of(tmp_path)))
        os.killpg(watching.pid, signal.SIGINT)  # as the terminal's Ctrl-C
        _, stderr = watching.communicate()
    assert watching.returncode == 130
    assert "interrupted; the jobs keep running; to watch them again, give the same command with --resume" in stderr
    result = call(*TINY, "--cluster", "local", "--resume", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0].startswith("nothing to submit")
    assert all(results.is_finished(seed, [2]) for seed in seeds_of(tmp_path))
    assert sorted(path.name for path in (tmp_path / "runs/quickstart").glob("seed=*")) == ["seed=0", "seed=1"]


@pytest.fixture(scope="module")
def slurm():
    """Arguments that submit to SLURM; skips the test if no SLURM answers."""
    try:
        subprocess.run(["sinfo"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("SLURM does not answer: sinfo is missing, or SLURM_CONF does not name the file of a running SLURM")
    return ["--cluster", "slurm", "--time", "20"]


@pytest.mark.thorough
def test_a_job_array_finishes_and_a_wrong_partition_leaves_no_files(slurm, tmp_path):
    result = call(*TINY, *slurm, "--partition", "nowhere", cwd=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and "invalid partition" in result.stderr
    assert not any(seed.exists() for seed in seeds_of(tmp_path))
    result = call(*TINY, *slurm, "--partition", "main", "--cpus", 1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    jobs = [job_of(seed) for seed in seeds_of(tmp_path)]
    array = jobs[0].removesuffix("_0")
    assert jobs == [f"{array}_0", f"{array}_1"]
    assert f"job array {array}, 2 runs" in result.stdout
    assert all(results.is_finished(seed, [2]) for seed in seeds_of(tmp_path))


@pytest.mark.long
def test_a_job_submits_others(slurm, tmp_path):
    """A job of an array, whose environment names the array, submits another array."""
    output = tmp_path / "output"
    script = " ".join(command(*TINY, "--seeds", 1, *slurm))
    options = ["--array=3", "--wait", f"--chdir={tmp_path}", f"--output={output}", "--oversubscribe"]
    subprocess.run(["sbatch", *options, f"--wrap={script}"], check=True, timeout=600)
    assert results.is_finished(seeds_of(tmp_path)[0], [2]), output.read_text()


@pytest.mark.long
def test_a_killed_job_is_resubmitted_alone_and_resumes(slurm, tmp_path, monkeypatch):
    # A killed process must not leave a partly written compilation cache for other tests.
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    long = [*LONG, *slurm]
    with subprocess.Popen(command(*long), cwd=tmp_path, text=True, stderr=subprocess.PIPE) as watching:
        killed, other = seeds_of(tmp_path)
        assert waited_for((killed / "checkpoints/0").exists)
        jobs = [job_of(killed), job_of(other)]
        subprocess.run(["scancel", "--signal=KILL", "--full", jobs[0]], check=True)
        assert waited_for(lambda: jobs[0] not in (cluster._queue() or {jobs[0]: ""}))
        watching.send_signal(signal.SIGINT)
        watching.communicate()
    saved = len((killed / "metrics.jsonl").read_text().splitlines())
    assert 1 <= saved < 16
    with subprocess.Popen(command(*long, "--resume"), cwd=tmp_path, text=True, stdout=subprocess.PIPE) as watching:
        assert "1 runs" in watching.stdout.readline()
        watching.stdout.read()
    assert watching.returncode == 0
    assert job_of(killed) != jobs[0] and job_of(other) == jobs[1]
    assert all(results.is_finished(seed, [2, 16]) for seed in (killed, other))
    assert f"{saved}/16 tasks: learning task {saved}" in (killed / sweep.LOG).read_text()


@pytest.mark.thorough
def test_a_job_at_its_time_limit_saves_and_is_requeued(slurm, tmp_path):
    with subprocess.Popen(command(*LONG, "--seeds", 1, *slurm), cwd=tmp_path, stderr=subprocess.PIPE) as watching:
        seed, _ = seeds_of(tmp_path)
        assert waited_for((seed / "checkpoints/0").exists)
        job = job_of(seed)
        subprocess.run(["scancel", "--signal=USR2", job], check=True)  # as SLURM does before the time limit
        assert waited_for(lambda: (cluster._queue() or {}).get(job, "").startswith("PENDING"))
        assert "the current tasks are finished and saved first" in (seed / sweep.LOG).read_text()
        watching.communicate()
    assert watching.returncode == 0
    assert job_of(seed) == job
    assert results.is_finished(seed, [2, 16])
