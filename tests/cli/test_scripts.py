import ast
import csv
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

from helpers import adapter
from helpers.tiers import thorough_but
from supsup_jax import data
from supsup_jax.__main__ import main as package_main
from supsup_jax.cli import quickstart as package_quickstart
from supsup_jax.paper import figures
from supsup_jax.runs.settings import load_experiment

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "experiments").rglob("*.py"))
SPLITCIFAR100 = [path for path in SCRIPTS if path.parent.name == "splitcifar100"]
SPLITIMAGENET = [path for path in SCRIPTS if path.parent.name == "splitimagenet"]
OF_OTHER_PAPERS = [path for path in SCRIPTS if path.parts[-3:-1] in (("GG", "MNISTPerm"), ("GG", "CIFAR100-10-tasks"))]
RELATED = ("SplitCIFAR10", "SplitCIFAR100", "cifar100superclasses", "splittinyimagenet", "fivedatasets")
OF_RELATED_WORK = [path for path in SCRIPTS if path.parent.name in RELATED]
PAPER = [path for path in SCRIPTS if path not in OF_RELATED_WORK]
MNIST = [path for path in PAPER if path.parent != ROOT / "experiments" and "GG" not in path.parts]
QUICK = ["--num-tasks", "3", "--steps", "20", "--eval-at", "2", "3", "--width", "0.1"]
QUICKSTART = ["--num-tasks", "3", "--steps", "20", "--width", "0.1", "--eval-at", "3"]


def call(script, *arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
    )


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """Return a function that runs a script in an empty folder and in this process, which reuses compiled programs."""
    monkeypatch.chdir(tmp_path)

    def run(script, *arguments):
        path = str(ROOT / "experiments" / script)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return run


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


def only_run(folder):
    """Return the folder of the only run below `folder`."""
    (settings,) = (folder / "runs").rglob("settings.yaml")
    return settings.parent


@pytest.fixture
def real_or_embedded(request):
    """Arguments that run a script on real data if it is available, else on embedded data."""
    return ["--data", request.getfixturevalue("data_folder")] if "SUPSUP_DATA" in os.environ else EMBEDDED


EMBEDDED = ["--dataset", "digits"]
# One script for each scenario.
ON_MNIST = ["LeNet-250-tasks/batche", "SplitMNIST/hopsupsup", "NNs/supsup"]


# The other scripts differ in one part, which other tests use.
OTHER_SCRIPTS = [path for path in MNIST if not any(str(path).endswith(f"{name}.py") for name in ON_MNIST)]


@pytest.mark.parametrize(
    "script", thorough_but([], MNIST, long=OTHER_SCRIPTS), ids=lambda path: "/".join(path.parts[-2:])
)
def test_every_script_writes_its_files(script, run_here, real_or_embedded, tmp_path):
    real = any(str(script).endswith(f"{name}.py") for name in ON_MNIST)
    # Large networks are replaced, so that scripts share compiled programs.
    network = ["--network", "LeNet"] if script.parent.name == "FC-250-tasks" or script.stem == "ablation" else []
    if script.stem == "ablation":
        network += ["--features", "25", "--objective", "superfluous"]
    run_here(script, *QUICK, *network, *(real_or_embedded if real else EMBEDDED))
    folder = only_run(tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert {
        "settings.yaml",
        "accuracy_matrix.csv",
        "metrics.csv",
        "storage.csv",
        "metrics.jsonl",
        "accuracy.png",
        "checkpoints",
    } <= names
    experiment = yaml.safe_load((folder / "settings.yaml").read_text())["experiment"]
    assert ("adapt_results.csv" in names) == (experiment["scenario"] != "GG")
    assert ("stream.csv" in names) == (experiment["scenario"] == "NNs")
    assert {"recovery.csv", "recovery.png"} & names == (
        {"recovery.csv", "recovery.png"} if experiment["method"] == "HopSupSup" else set()
    )
    with (folder / "metrics.csv").open() as file:
        header, *rows = csv.reader(file)
    metrics = ["Average Accuracy", "Forgetting", "Backward Transfer", "Tasks Compared"]
    assert header == ["Num Tasks Learned", "Task Identity", *metrics]
    assert [row[0] for row in rows if row[1] == "given"] == ["2", "3"]
    assert all(0 <= float(row[2]) <= 1 for row in rows)


@pytest.mark.long  # each compiles for half a minute
@pytest.mark.parametrize("script", SPLITCIFAR100, ids=lambda path: path.stem)
def test_every_script_of_splitcifar100_runs(script, run_here, real_or_embedded, tmp_path):
    masked = "supsup" in script.stem
    quick = ["--num-tasks", 2, "--epochs", None, "--steps", 2, "--batch-size", 32, "--width", 0.1, "--seed", 0]
    sparsity = ["--sparsity", 32] if masked else []  # without it, the script is a sweep
    printed = run_here(script, *quick, *sparsity, *real_or_embedded)
    (metrics,) = tmp_path.glob("runs/**/metrics.jsonl")
    folder = metrics.parent
    assert folder.name == ("seed=0~sparsity=32" if masked else "seed=0")
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    assert len(settings["densities"]) == (21 if masked else 0)
    assert ("layer4_1/conv2" in printed) == masked
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["task", "task", "evaluation"]
    *_, row = (folder / "accuracy_matrix.csv").read_text().splitlines()
    accuracies = [float(accuracy) for accuracy in row.split(",")[2:]]
    # Later tasks do not change a task's accuracy, since its adapter and batch-norm statistics are not shared.
    first = int("lowerbound" in script.stem)  # except for the lower bound, since later tasks change its trunk
    assert [line["accuracy"] for line in lines[first:2]] == pytest.approx(accuracies[first:], abs=1e-4)


def test_a_script_of_splitcifar100_runs_on_embedded_data(run_here, tmp_path):
    # LeNet compiles faster; the test above uses the script's network.
    quick = ["--network", "LeNet", "--num-tasks", 2, "--epochs", None, "--steps", 2, "--sparsity", 32, *EMBEDDED]
    run_here("GG/splitcifar100/rn18-supsup.py", *quick)
    (matrix,) = tmp_path.glob("runs/**/accuracy_matrix.csv")
    *_, row = matrix.read_text().splitlines()
    assert len(row.split(",")[2:]) == 2


@pytest.mark.parametrize(
    "script",
    thorough_but([], OF_OTHER_PAPERS, long=[path for path in OF_OTHER_PAPERS if path.stem in ("wsn", "packnet")]),
    ids=lambda path: "/".join(path.parts[-2:]),
)
def test_every_script_of_methods_of_other_papers_runs(script, run_here, tmp_path):
    quick = ["--num-tasks", 2, "--epochs", None, "--steps", 4, "--batch-size", 16, "--width", 0.1, *EMBEDDED]
    if script.parent.name == "CIFAR100-10-tasks":  # their networks compile for half a minute
        quick += ["--network", "LeNet", "--classes-per-task", 2, "--first-task", 0]
    if script.stem == "piggyback":
        quick += ["--base-weights", None, "--augment", None]
    run_here(script, *quick)
    metrics = (only_run(tmp_path) / "metrics.jsonl").read_text().splitlines()
    *tasks, evaluation = map(json.loads, metrics)
    accuracies = [task["accuracy"] for task in tasks]
    assert len(tasks) == 2
    assert evaluation["given"] == pytest.approx(sum(accuracies) / 2, abs=5e-3)  # nothing is forgotten


def test_networks_that_scripts_define_have_the_published_sizes():
    papers = {path.parent.name: path for path in OF_OTHER_PAPERS if path.stem == "wsn"}
    alexnet, mlp = (
        runpy.run_path(str(papers[name]))["EXPERIMENT"].network for name in ("CIFAR100-10-tasks", "MNISTPerm")
    )
    sizes = [3 * 16 * 64, 64 * 9 * 128, 128 * 4 * 256, 1024 * 2048, 2048 * 2048, 2048 * 10]
    for network, expected in ((alexnet, sizes), (mlp, [784 * 100, 100 * 100, 100 * 10])):
        weights, _ = jax.eval_shape(network.init, jax.random.key(0))
        assert sorted(leaf.size for leaf in jax.tree.leaves(weights)) == sorted(expected)


def sample_data(folder):
    """Write a TinyImageNet of ten classes, and 100 classes of photographs in an .npz file; return the arguments."""
    rng = np.random.default_rng(0)
    for number in range(10):
        wnid = f"n{number:08d}"
        for split, name in (("train", f"{wnid}/images"), ("val", wnid)):
            place = folder / "tiny-imagenet-200" / split / name
            place.mkdir(parents=True)
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{wnid}.JPEG")
    images, labels = rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8), np.arange(200) % 100
    np.savez(folder / "photographs.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return {
        "splittinyimagenet": [],
        "fivedatasets": ["--sources", "digits", "npz:photographs.npz"],
    }


# LeNet compiles faster; the scripts of splitcifar100 use the same network on the same shapes.
ALL_RELATED = [(path, network) for path in OF_RELATED_WORK for network in (["--network", "LeNet"], [])]
SOME_RELATED = [pair for pair in ALL_RELATED if pair[1] and pair[0].parent.name in ("SplitCIFAR100", "fivedatasets")]


@pytest.mark.parametrize(
    ("script", "network"),
    thorough_but([], ALL_RELATED, long=[pair for pair in ALL_RELATED if pair not in SOME_RELATED]),
    ids=lambda value: value.parent.name if isinstance(value, Path) else None,
)
def test_scripts_of_related_work_run_on_a_small_sample(script, network, run_here, tmp_path):
    photographs = ["--dataset", "npz", "--path", "photographs.npz"]
    source = sample_data(tmp_path).get(script.parent.name, photographs)
    quick = ["--num-tasks", 2, "--epochs", None, "--steps", 2, "--batch-size", 4, "--width", 0.1, "--sparsity", 32]
    run_here(script, *quick, *network, *source, "--data", tmp_path)
    folder = only_run(tmp_path)
    experiment = yaml.safe_load((folder / "settings.yaml").read_text())["experiment"]
    assert ("adapt_results.csv" in {path.name for path in folder.iterdir()}) == (experiment["scenario"] == "GNu")
    (metrics,) = tmp_path.glob("runs/**/metrics.jsonl")
    assert [json.loads(line)["kind"] for line in metrics.read_text().splitlines()] == ["task", "task", "evaluation"]


@pytest.mark.parametrize("script", SPLITIMAGENET, ids=lambda path: path.stem)
@pytest.mark.thorough
def test_every_script_of_splitimagenet_runs_on_real_data(script, run_here, data_folder, tmp_path):
    quick = ["--num-tasks", 2, "--epochs", 2, "--warmup-epochs", 1, "--batch-size", 4, "--image-size", 14]
    # Compiling a ResNet takes minutes; tests/core/test_resnet.py tests its parts.
    network = ["--network", "LeNet", "--width", 0.1]
    sparsity = ["--sparsity", 8] if script.stem == "rn50-supsup" else []
    printed = run_here(script, *quick, *network, *sparsity, "--data", data_folder)
    assert "decoding images of task 1: 10 of 10" in printed
    (metrics,) = tmp_path.glob("runs/**/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["task", "task", "evaluation"]
    assert not (metrics.parent / "unreadable.txt").exists()


@pytest.mark.thorough
def test_ten_tasks_of_mnist_reach_the_accuracy_of_the_original(data_folder, tmp_path):
    result = call(
        "GNu/MNISTPerm/LeNet-250-tasks/supsup_h.py",
        "--num-tasks",
        10,
        "--data",
        data_folder,
        cwd=tmp_path,
        JAX_DISABLE_MOST_OPTIMIZATIONS="0",
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs/GNu/MNISTPerm/LeNet-250-tasks/supsup_h/seed=1"
    evaluation = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert evaluation["inferred"] >= 0.934
    assert evaluation["picked"] == 1
