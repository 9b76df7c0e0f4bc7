import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.figures import FC, LENET
from helpers.tiers import thorough_but
from supsup_jax.data.presence import is_present
from supsup_jax.paper import reproducing, scripts
from supsup_jax.paper.planning import Rates
from supsup_jax.runs import tables
from supsup_jax.system import interruption

PSP, FC_PSP, BATCHE = f"{LENET}/psp", f"{FC}/psp", f"{LENET}/batche"
H, G = f"{LENET}/supsup_h", f"{LENET}/supsup_g"

SCRIPT = """
from helpers import adapter

EXPERIMENT = adapter.experiment(
    {name!r}, dataset={dataset!r}, eval_at={counts}, num_tasks=50, scenario="GG", batch_size={batch}
)

if __name__ == "__main__":
    from helpers import stub_script

    stub_script.main(EXPERIMENT, {accuracy})
"""

# Milliseconds per task. The batch size has the same value, so that `calibrated_rates` can be replaced.
TIMES = {PSP: 100, BATCHE: 200, FC_PSP: 300, H: 150, G: 150}

DRIVER = """
import sys
from pathlib import Path
from supsup_jax.paper import reproducing, scripts
from supsup_jax.__main__ import main
from supsup_jax.paper.planning import Rates

scripts.FOLDER = Path(sys.argv.pop(1))
reproducing.calibrated_rates = lambda experiment: Rates(experiment.training.batch_size / 1000, 0.0, 0.0)
main()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an empty data folder, and with stub scripts of three experiments, which learn nothing."""
    monkeypatch.setattr(scripts, "FOLDER", tmp_path / "experiments")
    scripts.script_of.cache_clear()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    monkeypatch.setattr(reproducing, "calibrated_rates", lambda of: Rates(of.training.batch_size / 1000, 0.0, 0.0))
    for name, accuracy in ((PSP, 0.948), (FC_PSP, 0.95), (BATCHE, 0.8886)):
        write_script(tmp_path, name, accuracy)
    (tmp_path / "data").mkdir()
    yield tmp_path
    scripts.script_of.cache_clear()


@pytest.fixture
def in_this_process(monkeypatch):
    """Run the scripts in this process, without importing JAX for each; they cannot be interrupted."""

    def run_script(job, request, *_):
        _, script, *arguments = reproducing.command_of(job, request)
        before = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            return end.code
        finally:
            signal.signal(signal.SIGTERM, before)

    monkeypatch.setattr(reproducing, "run_script", run_script)


def write_script(root, name, accuracy=0.9, dataset="digits", counts=(10,)):
    path = root / f"experiments/{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SCRIPT.format(name=name, dataset=dataset, counts=counts, accuracy=accuracy, batch=TIMES[name]))


def calls(root):
    """Return the arguments of all calls of scripts, in order."""
    path = root / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


ALL = "reproduce", "runs", "--run", "--data", "data", "--only", "GNu/MNISTPerm"


def test_a_plan_lists_runs_and_writes_nothing(command, folder):
    before = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    lines = command("reproduce", "runs", "--plan", "--data", "data", "--only", LENET, "--budget", "11s").splitlines()
    assert lines[0] == "2 runs to make, about 7 s, within 11 s"
    assert lines[1] == f"  {PSP}, seed 1: 50 tasks, about 5 s"
    assert lines[2] == f"  {BATCHE}, seed 1: 10 tasks, about 2 s"
    assert f"  {BATCHE}, seed 1: only 10 of 50 tasks, since it takes about 10 s in full" in lines
    assert f"  {LENET}/supsup_h: there is no script" in lines
    assert {path for path in folder.rglob("*") if "__pycache__" not in path.parts} == before
    plain = json.loads(command("reproduce", "runs", "--plan", "--data", "data", "--only", PSP, "--seeds", 2, "--json"))
    assert [(run["run"], run["tasks"]) for run in plain["runs"]] == [(f"{PSP}, seed 0", 50), (f"{PSP}, seed 1", 50)]


@pytest.mark.usefixtures("in_this_process")
def test_missing_runs_are_made_shortest_first_and_written(command, folder):
    lines = command(*ALL).splitlines()
    expected = [f"{name} --seed 1 --num-tasks 50" for name in (PSP, BATCHE, FC_PSP)]
    assert calls(folder) == expected
    assert lines[0].startswith("3 runs to make, about 30 s")
    assert lines[-1] == "REPRODUCE.md"
    table = (folder / "REPRODUCE.md").read_text()
    assert "| `psp` | 10 | 94.80 ± 0.12 |  | 94.80 | yes |" in table
    assert (folder / "runs/figure3.png").stat().st_size > 5000
    command(*ALL[:2], "kept", *ALL[2:], "--output", "again.md", "--figures", "pictures", "--keep", "kept")
    assert calls(folder) == expected, "no run is missing"
    assert (folder / "again.md").read_text() == table
    assert (folder / "pictures/figure3.png").exists()
    (planned,) = command("reproduce", "new", "kept", "--plan", *ALL[3:]).splitlines()[:1]
    assert planned == "0 runs to make", "the copies have every number"


@pytest.mark.usefixtures("in_this_process")
def test_each_seed_is_run(command, folder):
    command("reproduce", "runs", "--run", "--data", "data", "--only", PSP, "--seeds", 2, "--json")
    assert calls(folder) == [f"{PSP} --seed {seed} --num-tasks 50" for seed in (0, 1)]
    assert "| 94.80 ± 0.00 | yes |" in (folder / "REPRODUCE.md").read_text()


def test_after_a_failed_run_the_others_are_made_and_the_status_is_1(command, folder, monkeypatch):
    monkeypatch.setenv("STUB_FAILS", "LeNet-250-tasks/psp")
    command("reproduce", "runs", "--run", "--data", "data", "--only", LENET, status=1)
    assert [line.split()[0] for line in calls(folder)] == [PSP, BATCHE]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("failing", ["none", "with tasks of a different run"])
def test_a_run_takes_the_tasks_of_its_pair_or_learns_them(command, folder, monkeypatch, failing):
    monkeypatch.setenv("STUB_FAILS", failing)
    for name in (H, G):
        write_script(folder, name)
    lines = command("reproduce", "runs", "--run", "--data", "data", "--only", H, G).splitlines()
    taking = f"{G} --seed 1 --num-tasks 50 --learned-in runs/{H}/seed=1"
    alone = [] if failing == "none" else [f"{G} --seed 1 --num-tasks 50"]
    assert calls(folder) == [f"{H} --seed 1 --num-tasks 50", taking, *alone]
    failed = f"{G}, seed 1 failed with tasks of runs/{H}/seed=1; starting again without them"
    assert (failed in lines) == bool(alone) and lines[-1] == "REPRODUCE.md"
    printed = command("reproduce", "runs", "--plan", "--data", "data", "--only", G, "--seeds", 2)
    assert "1 runs to make" in printed and f"{G}, seed 0: 50 tasks, about" in printed


@pytest.mark.usefixtures("in_this_process")
def test_a_run_with_other_settings_is_not_resumed(command, folder):
    write_script(folder, PSP, dataset="digits", accuracy=0.9)
    command("reproduce", "runs", "--run", "--data", "data", "--only", PSP)
    text = (folder / f"experiments/{PSP}.py").read_text()
    (folder / f"experiments/{PSP}.py").write_text(text.replace('scenario="GG"', 'scenario="GG", steps=7'))
    scripts.script_of.cache_clear()
    command("reproduce", "runs", "--run", "--data", "data", "--only", PSP)
    assert calls(folder) == [f"{PSP} --seed 1 --num-tasks 50"] * 2
    assert {run.folder.name for run in tables.find_runs(folder / "runs")} == {"seed=1", "seed=1~try=1"}


@pytest.mark.thorough
def test_at_the_end_of_the_budget_a_run_saves_and_can_be_resumed(command, folder, monkeypatch):
    monkeypatch.setenv("STUB_SECONDS", "0.4")  # four times as long as expected
    monkeypatch.setenv(interruption.GRACE, "1")
    started = time.monotonic()
    printed = command("reproduce", "runs", "--run", "--data", "data", "--only", PSP, "--budget", "8s")
    assert time.monotonic() - started < 20
    assert "the budget is used up; learned tasks are saved; the same command resumes" in printed
    learned = int((folder / f"runs/{PSP}/seed=1/learned").read_text())
    assert 0 < learned < 50
    monkeypatch.setenv("STUB_SECONDS", "0")
    command("reproduce", "runs", "--run", "--data", "data", "--only", PSP)
    assert calls(folder)[-1] == f"{PSP} --seed 1 --num-tasks 50 --resume"
    (run,) = tables.find_runs(folder / "runs")
    assert sorted(run.accuracies["given"]) == [10, 50]


STOPS = [(signal.SIGTERM, 143), (signal.SIGKILL, -9)]


@pytest.mark.parametrize(("number", "status"), thorough_but([], STOPS, long=STOPS[1:]))
def test_after_a_kill_the_same_command_resumes(folder, monkeypatch, number, status):
    arguments = [sys.executable, "-c", DRIVER, str(folder / "experiments"), *ALL[:-1], LENET, "--seeds", "1"]
    monkeypatch.setenv("STUB_SECONDS", "0.2")
    process = subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    learned = folder / f"runs/{PSP}/seed=0/learned"
    for _ in range(600):
        if learned.exists() and learned.read_text() not in ("", "0"):
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    if number == signal.SIGTERM:
        assert stderr.endswith("interrupted; learned tasks are saved; the same command resumes\n")
        assert (folder / "REPRODUCE.md").exists()
    for _ in range(100):  # after its parent was killed, the script saves and ends
        if (folder / f"runs/{PSP}/seed=0/accuracy_matrix.csv").exists():
            break
        time.sleep(0.1)
    before = int(learned.read_text())
    assert 0 < before < 50
    monkeypatch.setenv("STUB_SECONDS", "0")
    subprocess.run(arguments, cwd=folder, check=True, capture_output=True)
    assert calls(folder)[1] == f"{PSP} --seed 0 --num-tasks 50 --resume"
    assert [line.split()[0] for line in calls(folder)] == [PSP, PSP, BATCHE]
    assert len(tables.find_runs(folder / "runs")) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run"], ["--run and --plan require a folder for the runs"]),
        (["a", "b", "--plan", "--data", "data"], ["b is not a folder; give folders of earlier runs"]),
        (["runs", "--budget", "8h"], ["--budget requires --run or --plan"]),
        (["runs", "--only", "NNs"], ["--only requires --run or --plan"]),
        (["runs", "--seeds", "0"], ["--seeds requires --run or --plan"]),
        (["runs", "--plan", "--data", "data", "--only"], ["--only has no value"]),
        (["runs", "--run", "--data", "data", "--output", "no/R.md"], ["--output no/R.md is in a folder that"]),
        (["runs", "--run", "--data", "data", "--output", "data"], ["--output data is a folder"]),
        (["runs", "--run", "--data", "data", "--budget", "8"], ["--budget 8: must be a time such as 8h"]),
        (["runs", "--run", "--data", "data", "--seeds", "0"], ["--seeds 0: must be from 1"]),
        (["runs", "--run", "--data", "data", "--only", "x"], ["--only x: the paper has no such results"]),
        (["runs", "--run", "--data", "nowhere"], ["--data nowhere is not a folder"]),
        (["a-file", "--run", "--data", "data"], ["a-file is not a folder"]),
    ],
)
def test_a_wrong_argument_gives_one_line_and_writes_nothing(command, folder, arguments, words):
    (folder / "a-file").write_text("")
    before = set(folder.rglob("*"))
    error = command("reproduce", *arguments, status=2)
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert set(folder.rglob("*")) == before


def test_scripts_are_in_the_checkout():
    assert (scripts.FOLDER / "quickstart.py").is_file()


def test_without_scripts_no_run_can_be_made(command, folder, monkeypatch):
    monkeypatch.setattr(scripts, "FOLDER", folder / "nowhere")
    assert "require a checkout of the repository" in command(*ALL, status=2)
    assert not (folder / "REPRODUCE.md").exists()


def test_data_sets_are_present_in_the_folders_that_readers_use(tmp_path):
    names = "mnist", "cifar100", "imagenet"
    assert not any(is_present(name, tmp_path) for name in names)
    assert is_present("digits", tmp_path) and not is_present("own", tmp_path)
    raw = tmp_path / "mnist/MNIST/raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (raw / name).touch()
    assert not is_present("mnist", tmp_path), "one file would be downloaded"
    (raw / "t10k-labels-idx1-ubyte.gz").touch()
    (tmp_path / "cifar-100-python.tar.gz").touch()
    for split in ("train", "val"):
        (tmp_path / "imagenet" / split).mkdir(parents=True)
    assert all(is_present(name, tmp_path) for name in names)
