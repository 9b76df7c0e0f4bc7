import ast
import csv
import json
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from helpers import adapter
from helpers.scripts import QUICK, ROOT, SCRIPTS, SPLITCIFAR100, SPLITIMAGENET, call
from supsup_jax import data
from supsup_jax.__main__ import main as package_main
from supsup_jax.cli import quickstart as package_quickstart
from supsup_jax.paper import figures
from supsup_jax.runs.settings import load_experiment

QUICKSTART = ["--num-tasks", "3", "--steps", "20", "--width", "0.1", "--eval-at", "3"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT / "experiments")))
def test_every_script_has_a_header_and_is_named_by_its_path(script):
    """The header has the fields Reproduces, Command and Expect."""
    tree = ast.parse(script.read_text())
    header = ast.get_docstring(tree)
    name = str(script.relative_to(ROOT / "experiments").with_suffix(""))
    shares_run = script.stem in ("upper_bound", "lower_bound")
    assert all(word in header for word in ("Reproduces:", f"python experiments/{name}.py", "Expect:"))
    expected = header.partition("Expect:")[2]
    assert "%" in expected and "TODO" not in expected
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    words = [word for call in calls if call.func.attr == "Experiment" for word in call.keywords]
    names = [ast.literal_eval(word.value) for word in words if word.arg == "name"]
    if name == "quickstart":  # declared in the package
        names = [runpy.run_path(str(script))["EXPERIMENT"].name]
    assert names == [str(Path(name).with_name("bounds")) if shares_run else name]


@pytest.mark.parametrize("script", [*SPLITCIFAR100, *SPLITIMAGENET], ids=lambda path: path.stem)
def test_each_yaml_file_has_the_settings_of_its_script(script):
    declared = runpy.run_path(str(script))["EXPERIMENT"]
    assert load_experiment(script.parent / f"configs/{script.stem}.yaml") == declared


@pytest.mark.parametrize(
    "script", [path for path in SCRIPTS if path.stem == "upper_bound"], ids=lambda p: p.parent.name
)
def test_both_bounds_share_one_run(script):
    upper, lower = (
        runpy.run_path(str(script.with_stem(name)))["EXPERIMENT"] for name in ("upper_bound", "lower_bound")
    )
    assert upper == lower


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    return folder, call("quickstart.py", *QUICKSTART, cwd=folder)


def test_quickstart_runs_from_any_folder_and_prints_its_files(quickstart):
    folder, result = quickstart
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    paths = [folder / line for line in result.stdout.splitlines() if line.startswith("runs/") and ":" not in line]
    assert {path.name for path in paths} == {
        "results.csv",
        "adapt_results.csv",
        "confusion.csv",
        "accuracy_matrix.csv",
        "metrics.csv",
        "storage.csv",
        "metrics.jsonl",
        "settings.yaml",
        "checkpoints",
        "accuracy.png",
        "quickstart.png",
        *(path.name for path in paths if path.name.startswith("events.out.tfevents.")),
    }
    assert len(paths) == 12
    assert all(path.exists() for path in paths)
    assert "3/3 tasks" in result.stdout
    settings = yaml.safe_load((folder / "runs/quickstart/seed=1/settings.yaml").read_text())
    assert settings["experiment"]["num_tasks"] == 3
    assert settings["options"]["log_dir"] == "runs"


def test_a_second_run_has_a_new_folder_except_with_resume(quickstart, run_here, monkeypatch):
    folder, _ = quickstart
    monkeypatch.chdir(folder)
    run_here("quickstart.py", *QUICKSTART, "--resume")
    assert not (folder / "runs/quickstart/seed=1~try=1").exists()
    settings = yaml.safe_load((folder / "runs/quickstart/seed=1/settings.yaml").read_text())
    assert settings["options"]["resume"] is True
    run_here("quickstart.py", *QUICKSTART)
    assert (folder / "runs/quickstart/seed=1~try=1").is_dir()
    with (folder / "runs/quickstart/results.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + 2 * 3


def test_resuming_with_other_settings_lists_them(quickstart, run_here, monkeypatch, capsys):
    folder, _ = quickstart
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as end:
        run_here("quickstart.py", *QUICKSTART[:-1], "--resume", "--steps", "21")
    error = capsys.readouterr().err
    assert_one_line_error(end.value.code, error, "has other settings", "steps: 20 before, 21 now")


def test_the_package_runs_the_quickstart_with_the_same_flags(tmp_path, monkeypatch, capsys):
    """Neither `supsup-jax quickstart` nor resuming its run requires a script."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/supsup-jax", "quickstart", *QUICK])
    package_main()
    folder = tmp_path / "runs/quickstart/seed=1"
    assert (folder / "quickstart.png").exists() and "quickstart.png" in capsys.readouterr().out
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    assert settings["command"] == ["supsup-jax quickstart", *QUICK]
    monkeypatch.setattr(sys, "argv", ["supsup-jax", "run", str(folder)])
    package_main()
    assert "accuracies in %" in capsys.readouterr().out


@pytest.mark.long
def test_the_quickstart_figure_shows_images_of_its_run(tmp_path, monkeypatch):
    experiment = adapter.experiment("q", "digits", num_tasks=12, steps=300, batch_size=32, learning_rate=1e-3, seed=5)
    outcome = adapter.run_experiment(experiment, data.load_digits(), tmp_path)
    drawn = {}
    monkeypatch.setattr(figures, "draw_run", lambda *arguments: drawn.update(arguments=arguments))
    package_quickstart.draw(outcome)
    _, title, _, gradients, tasks = drawn["arguments"]
    assert title == "12 tasks, one random network"
    assert gradients.argmin(-1).tolist() == list(tasks) == [0, 11]


@pytest.mark.long
def test_a_sweep_repeats_only_unfinished_seeds(tmp_path):
    """A sweep runs each seed in a separate process, resumes a failed seed and skips finished ones."""
    seeds = [tmp_path / "logs/quickstart" / f"seed={seed}" for seed in range(2)]

    def sweep(num_tasks, *arguments):
        settings = ["--num-tasks", num_tasks, "--steps", 5, "--width", 0.1, "--images-per-task", 8, "--seeds", 2]
        return call("quickstart.py", *settings, "--log-dir", tmp_path / "logs", *arguments, cwd=tmp_path)

    result = sweep(2)
    assert result.returncode == 0, result.stderr
    for seed in ("seed=0", "seed=1"):
        states = [line.split(":")[0] for line in result.stdout.splitlines() if line.startswith(f"{seed} ")]
        assert states[0] in (f"{seed} running on the CPU", f"{seed} waiting")
        assert states[-1] == f"{seed} finished"
    assert all((seed / "accuracy.png").exists() for seed in seeds)

    damaged = seeds[0] / "checkpoints/0/record/metadata"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:10])
    result = sweep(3, "--resume")
    assert result.returncode == 1
    assert "seed=1 finished: 3/3 tasks" in result.stdout
    _, shown = result.stdout.split(f"seed=0 failed; the end of {seeds[0] / 'log.txt'}:\n")
    assert "checkpoints/0 cannot be read" in shown

    damaged.write_bytes(whole)
    logs = [(seed / "log.txt").read_text() for seed in seeds]
    result = sweep(3, "--resume")
    assert result.returncode == 0, result.stderr
    assert (seeds[0] / "log.txt").read_text() != logs[0]
    assert (seeds[1] / "log.txt").read_text() == logs[1]
    with (tmp_path / "logs/quickstart/results.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + 2 * 3


def assert_one_line_error(status, stderr, *words):
    assert status == 2, stderr
    assert len(stderr.strip().splitlines()) == 1
    assert stderr.startswith("error: ")
    for word in words:
        assert word in stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-taks", "3"], ["--num-taks", "--num-tasks"]),
        (["--num-tasks", "three"], ["--num-tasks", "three"]),
        (["--network", "Lenet"], ["no network Lenet", "LeNet"]),
        (["--num-tasks", "-1"], ["--num-tasks -1: must be from 1"]),
        (["--features", "3"], ["--features 3: must be at least the 10 classes"]),
        (["--seeds", "0"], ["--seeds 0: must be from 1"]),
        (["--data", "nowhere", "--dataset", "mnist"], ["nowhere", "--data", "https://"]),
        (["--log-dir", "a-file"], ["a-file"]),
        (["--method", "PSP"], ["search one_shot does not serve method PSP", "search exhaustive", "scenario GG"]),
        (["--method", "HopSupSup"], ["requires a network with gains", "BNNet"]),
        (["--method", "HopSupSup", "--search", "recovery"], ["requires a network with gains"]),
        (["--scenario", "NNs", "--search", "recovery"], ["scenario NNs needs search OneShot"]),
        (["--scenario", "NNs", "--search", "exhaustive"], ["scenario NNs needs search OneShot"]),
        (["--seeds", "2", "--benchmark", "SplitMNIST"], ["--num-tasks 25: SplitMNIST has 5 tasks"]),
        (["--gpu-sets", "0||1"], ['--gpu-sets "0||1"', '"0,1|2,3"']),
        (["--gpu-sets", "0|0"], ["device 0 is repeated"]),
        (["--partition", "main"], ["--partition requires --cluster slurm"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml cannot be read"]),
        (["--config", "a-file"], ["a-file does not contain settings"]),
        (["--sparsity", "3"], ["--sparsity"]),
        (["--initializer", "stored"], ["--initializer stored is only for imported runs"]),
        (["--benchmark", "SplitMNIST"], ["--num-tasks 25: SplitMNIST has 5 tasks"]),
    ],
)
def test_a_wrong_argument_gives_one_line_and_writes_nothing(run_here, tmp_path, capsys, arguments, words):
    (tmp_path / "a-file").write_text("")
    with pytest.raises(SystemExit) as end:
        run_here("quickstart.py", *arguments)
    assert_one_line_error(end.value.code, capsys.readouterr().err, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_help_explains_every_option(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    printed = adapter.call("experiments/quickstart.py", "--help")
    for option in [
        "--data",
        "--log-dir",
        "--seed",
        "--seeds",
        "--gpu-sets",
        "--cluster",
        "--config",
        "--num-tasks",
        "--steps",
        "--eval-at",
        "--tasks-at-once",
        "--resume",
        "--objective",
        "--width",
    ]:
        assert f"{option} " in printed or f"{option}," in printed
    assert "Reproduces:" in printed


@pytest.mark.thorough
def test_an_interrupted_script_says_how_to_resume_and_resumes(tmp_path):
    settings = [
        "--num-tasks",
        "40",
        "--steps",
        "20",
        "--tasks-at-once",
        "2",
        "--width",
        "0.1",
        "--eval-at",
        "40",
        "--images-per-task",
        "8",
    ]
    command = [sys.executable, str(ROOT / "experiments/quickstart.py"), *settings]
    # A shell's background jobs ignore Ctrl-C, and so do the processes that they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    while not (tmp_path / "runs/quickstart/results.csv").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    announced = re.search(
        r"interrupted(?: \(learning tasks \d+ to (\d+)\))?; the current tasks are finished and saved first", stdout
    )
    assert announced
    learned = (tmp_path / "runs/quickstart/seed=1/metrics.jsonl").read_text().splitlines()
    assert learned
    if announced[1]:  # not interrupted between two chunks
        assert len(learned) == int(announced[1]) + 1
    (farewell,) = [line for line in stderr.splitlines() if line.startswith("interrupted; ")]
    assert "--resume" in farewell
    assert call("quickstart.py", *settings, "--resume", cwd=tmp_path).returncode == 0
    lines = (tmp_path / "runs/quickstart/seed=1/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["task"] for line in lines[:-1]] == list(range(40))
