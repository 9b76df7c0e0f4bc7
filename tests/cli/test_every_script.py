"""Every script runs: on real data if it is available, or on embedded data, with small settings."""

import csv
import json
import os
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

from helpers.scripts import MNIST, OF_OTHER_PAPERS, OF_RELATED_WORK, QUICK, SPLITCIFAR100, SPLITIMAGENET, call
from helpers.tiers import thorough_but


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
