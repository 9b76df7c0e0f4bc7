"""Faults of disks, folders, clocks and memory: a one-line error or no effect, and a resumed run has equal results."""

import contextlib
import csv
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from filelock import FileLock, Timeout

from helpers import adapter
from helpers.runs import DATASET, OTHERS, dicts_without_saved
from helpers.tiers import thorough_but
from helpers.toys import abandons_coroutines
from supsup_jax.cli import launch
from supsup_jax.runs import results
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.train import run_experiment
from supsup_jax.system import atomic, interruption

# Each task changes the weights, which are stored beside the checkpoints.
EXPERIMENT = adapter.changed(OTHERS["LowerBound"], num_tasks=4, eval_at=(2,))

LONG = pytest.mark.long
MORE_PAGES = 1, 2, 3, 4, 5, 8, 10, 12

pytestmark = abandons_coroutines


def run(folder, fault=None, task=2):
    """Run the experiment one task at a time, and call `fault` before a task is learned."""
    folder.mkdir(exist_ok=True, parents=True)

    def report(progress):
        if fault and progress.message == f"learning task {task}":
            fault()

    return adapter.run_experiment(EXPERIMENT, DATASET, folder, 1, report)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("undisturbed") / "seed=1")


def check_it_ends_as(undisturbed, folder):
    """Resume a run after a fault, and compare it with an undisturbed run."""
    resumed = run(folder)
    assert dicts_without_saved(resumed) == dicts_without_saved(undisturbed)
    jax.tree.map(np.testing.assert_array_equal, resumed.model, undisturbed.model)
    with (folder.parent / "results.csv").open(newline="") as file:
        assert [row["Name"] for row in csv.DictReader(file)] == [f"seed=1~task={task}" for task in range(4)]
    for name in ("accuracy_matrix.csv", "metrics.csv", "storage.csv"):
        assert (folder / name).read_text() == (undisturbed.folder / name).read_text()
    assert not list(folder.rglob("*unfinished")) and not list(folder.rglob("*orbax-checkpoint-tmp"))


@contextlib.contextmanager
def one_line(capfd, words=""):
    """Check that the body exits with status 2 and a one-line error with these words."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end, launch.errors_in_one_line():
        yield
    stderr = capfd.readouterr().err
    assert end.value.code == 2 and stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    assert words in stderr


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("pages", thorough_but([6], [0, 6, *MORE_PAGES], long=MORE_PAGES))
def test_a_full_disk_gives_one_line_and_saved_tasks_are_kept(undisturbed, small_disk, capfd, pages):
    ballast = small_disk / "ballast"

    def fill():
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        os.truncate(ballast, ballast.stat().st_size - 4096 * pages)

    folder = small_disk / "runs/seed=1"
    with one_line(capfd, "No space left on device"):
        run(folder, fill, task=1)
    ballast.unlink()
    check_it_ends_as(undisturbed, folder)


@pytest.mark.parametrize("largest", [400, *(pytest.param(size, marks=LONG) for size in (0, 100, 200, 800, 1600))])
def test_a_file_size_limit_gives_one_line_and_saved_tasks_are_kept(undisturbed, tmp_path, capfd, largest):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = tmp_path / "runs/seed=1"
    with one_line(capfd):
        try:
            run(folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, most)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    check_it_ends_as(undisturbed, folder)


def test_a_run_whose_folder_is_deleted_gives_one_line_and_no_files(undisturbed, tmp_path, capfd):
    folder = tmp_path / "runs/seed=1"
    with one_line(capfd, "cannot be written"):
        run(folder, lambda: shutil.rmtree(folder))
    assert not folder.exists()
    (tmp_path / "runs/results.csv").unlink()
    check_it_ends_as(undisturbed, folder)


def test_a_clock_that_runs_backwards_has_no_effect(undisturbed, tmp_path, monkeypatch):
    clock = itertools.count(time.time(), -100)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * next(clock)))
    folder = tmp_path / "seed=1"
    with pytest.raises(ZeroDivisionError):
        run(folder, lambda: 1 / 0)
    check_it_ends_as(undisturbed, folder)


def test_readers_find_complete_files_while_renaming_is_slow(undisturbed, tmp_path, monkeypatch):
    folder, renamed, stop, found = tmp_path / "seed=1", [], threading.Event(), []
    folder.mkdir()

    def slowly(rename):
        def renames(source, target, **options):
            renamed.append(os.path.basename(target))
            time.sleep(0.02)
            rename(source, target, **options)
            time.sleep(0.02)

        return renames

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, slowly(getattr(os, name)))

    def read():
        while not stop.is_set():
            with Checkpoints(folder) as checkpoints:
                steps = len(checkpoints.records())
            lines = []
            if (folder / "metrics.jsonl").exists():
                lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            rows = []
            if (tmp_path / "results.csv").exists():
                with (tmp_path / "results.csv").open(newline="") as file:
                    rows = [*csv.reader(file, strict=True)]
            assert all(len(row) == 5 for row in rows)
            found.append((steps, len(lines), len(rows)))

    def read_and_note():
        try:
            read()
        except BaseException as error:
            found.append(error)

    reader = threading.Thread(target=read_and_note)
    reader.start()
    try:
        run(folder)
    finally:
        stop.set()
        reader.join()
    assert all(isinstance(seen, tuple) for seen in found), found[-1]
    assert found == sorted(found) and len(set(found)) > 3
    assert {"0", "5", "metrics.jsonl"} <= set(renamed)
    check_it_ends_as(undisturbed, folder)


QUICKSTART = Path(__file__).parents[2] / "experiments/quickstart.py"
SCRIPT = adapter.experiment("script", "digits", num_tasks=2, steps=5, width=0.1, scenario="GG", batch_size=32)


@pytest.fixture
def script(monkeypatch):
    """Return a function that calls a script's `main` with a folder for results."""

    def call(log_dir, *arguments):
        monkeypatch.setattr(sys, "argv", ["script.py", "--log-dir", str(log_dir), *arguments])
        launch.main(SCRIPT, "A script.")

    return call


def test_a_file_in_place_of_the_results_folder_gives_one_line(script, tmp_path, capfd):
    (tmp_path / "runs").touch()
    with one_line(capfd, "--log-dir"):
        script(tmp_path / "runs")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/script").touch()
    with one_line(capfd, "--log-dir"):
        script(tmp_path / "other")


def test_a_run_locked_by_another_process_is_not_changed(script, tmp_path, capfd):
    script(tmp_path)
    (settings,) = tmp_path.glob("script/*/settings.yaml")
    before = settings.read_bytes()
    with FileLock(settings.with_name(".lock")), one_line(capfd, "is in use by"):
        script(tmp_path, "--resume", "--data", "elsewhere")
    assert settings.read_bytes() == before


def test_a_run_locks_its_folder_from_its_settings_to_its_figures(script, tmp_path, monkeypatch):
    def check_locked(*_):
        for lock in tmp_path.rglob(".lock"):
            with pytest.raises(Timeout), FileLock(lock, timeout=0):
                pass
            tries.append(lock)

    tries = []
    script(tmp_path)
    monkeypatch.setattr(
        launch, "run_experiment", lambda *given, **named: check_locked() or run_experiment(*given, **named)
    )
    monkeypatch.setattr(launch.figures, "draw_accuracy", check_locked)
    script(tmp_path, "--resume")
    (folder,) = tmp_path.glob("script/*/")
    launch.run(folder)
    assert len(tries) == 4
    with FileLock(folder / ".lock", timeout=0):
        pass


def test_more_tasks_than_fit_in_memory_give_one_line(script, tmp_path, capfd):
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**37, before[1]))
    try:
        with one_line(capfd, "there is not enough memory"):
            script(tmp_path, "--num-tasks", str(2**31 - 1))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert not list(tmp_path.rglob("results.csv"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--name", "../elsewhere"],
        ["--name", "/elsewhere"],
        ["--name", ""],
        ["--name", "a\0b"],
        ["--name", "a\nb"],
        ["--coordinator", "node1", "--hosts", "1", "--host", "0"],
        ["--coordinator", ":", "--hosts", "2", "--host", "1"],
    ],
)
def test_an_invalid_name_or_address_gives_one_line(script, tmp_path, capfd, arguments):
    with one_line(capfd, arguments[0]):
        script(tmp_path / "runs", *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", thorough_but(["仕事 a\nb"], ["a folder", "Aufgaben für später", "仕事 a\nb"]))
def test_folders_may_have_any_name(script, tmp_path, capfd, name):
    folder = tmp_path / name
    script(folder, "--data", str(folder))
    assert len(list(folder.glob("script/*/accuracy.png"))) == 1
    script(folder, "--resume", "--data", str(folder))
    (settings,) = folder.glob("script/*/settings.yaml")
    settings.write_text("[")
    with one_line(capfd, "settings.yaml"):
        script(folder, "--resume")


def test_a_folder_whose_name_is_not_utf8_is_rejected_before_training(script, tmp_path, capfd):
    with one_line(capfd, "is not UTF-8"):
        script(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", thorough_but([b"\xff\xfe,\0\n"], [b"\xff\xfe,\0\n", b'"' + bytes(200_000)]))
def test_damaged_rows_in_the_shared_table_lose_no_other_rows(script, tmp_path, capfd, content):
    script(tmp_path)
    (table,) = tmp_path.glob("script/results.csv")
    before = table.read_bytes()
    table.write_bytes(before + content)
    try:
        script(tmp_path, "--resume")
    except SystemExit as end:
        assert end.code == 2 and "results.csv is not a CSV file" in capfd.readouterr().err
    assert table.read_bytes().startswith(before + content) and table.read_bytes().count(b"~task=") == 2


def test_a_file_is_not_written_in_place_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path("."), Path(".."), tmp_path):
        with pytest.raises(IsADirectoryError) as error:
            atomic.write(path, "x")
        assert error.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as error:
        atomic.write(Path("missing/x.csv"), "x")
    assert error.value.filename == "missing/x.csv"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        ({"JAX_PLATFORMS": "abacus"}, 2),
        pytest.param({"SLURM_STEP_NUM_TASKS": "abc"}, 2, marks=pytest.mark.thorough),
        pytest.param({"PYTHONIOENCODING": "ascii"}, 0, marks=pytest.mark.thorough),
        pytest.param({interruption.GRACE: "soon"}, 2, marks=pytest.mark.thorough),
    ],
)
def test_an_invalid_environment_gives_one_line(tmp_path, environment, status):
    command = [sys.executable, str(QUICKSTART), "--num-tasks", "1", "--steps", "1", "--log-dir", str(tmp_path / "für")]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert ended.returncode == status, ended.stderr
    assert ended.stderr.count("\n") == (status == 2) and ended.stderr.startswith("error: " if status else "")


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def test_a_read_only_results_folder_gives_one_line(script, undisturbed, small_disk, capfd):
    folder = small_disk / "seed=1"
    with pytest.raises(ZeroDivisionError):
        run(folder, lambda: 1 / 0)
    remount(small_disk, "ro")
    with one_line(capfd, "Read-only file system"):
        run(folder)
    with one_line(capfd, "--log-dir"):
        script(small_disk)
    remount(small_disk, "rw")
    check_it_ends_as(undisturbed, folder)


TOGETHER = """
import multiprocessing, pathlib, sys
from supsup_jax.runs import records, results
from supsup_jax.system import atomic

parent = pathlib.Path(sys.argv[1])
processes = 10

def work(number, start):
    start.wait()
    folder = results.new_folder(parent, "seed=1")
    for task in range(20):
        atomic.write(parent / "shared", str(number) * 100_000)
        assert len(set((parent / "shared").read_text())) == 1
        of_task = records.TaskResult(task, "2020-12-06 12:00:00", 0.25, 0.9371, 0.94, 2.5)
        results.append_results(parent / "results.csv", folder, folder.name, [of_task])

context = multiprocessing.get_context("fork")
start = context.Barrier(processes)
workers = [context.Process(target=work, args=(number, start)) for number in range(processes)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
sys.exit(max(worker.exitcode for worker in workers))
"""


@pytest.mark.thorough
def test_ten_simultaneous_runs_have_separate_folders_and_rows(tmp_path):
    subprocess.run([sys.executable, "-W", "ignore", "-c", TOGETHER, str(tmp_path)], check=True)
    names = {"seed=1", *(f"seed=1~try={attempt}" for attempt in range(1, 10))}
    assert {folder.name for folder in results.existing_folders(tmp_path, "seed=1")} == names
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = [(row["Name"], row["Save Directory"]) for row in csv.DictReader(file)]
    assert sorted(rows) == sorted((f"{name}~task={task}", str(tmp_path / name)) for name in names for task in range(20))
    assert not list(tmp_path.glob("*unfinished"))


@LONG
def test_a_process_that_cannot_write_gives_one_line(tmp_path):
    settings = "--num-tasks 2 --steps 5 --images-per-task 8 --method LowerBound --scenario GG"
    # Only the files of the weights are larger than 32 KB.
    limited = f"ulimit -f 32; exec {sys.executable} {QUICKSTART} {settings} --log-dir {tmp_path}"
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    ended = subprocess.run(["bash", "-c", limited], env=environment, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and "cannot be written" in ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
