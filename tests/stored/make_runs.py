"""Documents how version 0.1 created the runs in `runs`. They must not change, so do not run this script again.

`python tests/stored/make_runs.py [NAME ...]` ran each script like a user, packed the run's folder into an archive,
resumed a copy, and wrote the measurements of both. It left out pictures, TensorBoard events, and paths and names that
are specific to the machine. Three runs were interrupted: one between two tasks, and two within a task.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers import adapter
import jax
import numpy as np
from helpers import stored_runs
from helpers.numbers import EXPERIMENTS, SUPSUP
from helpers.toys import write_small_imagenet

import supsup_jax as ss
from supsup_jax import data, interruption
from supsup_jax.options import Options
from supsup_jax.scenarios import sharded
from supsup_jax.settings import experiment_of, write_run

ROOT = Path(__file__).parents[2]
IMAGENET = EXPERIMENTS["ImageNet"]
PERM, CIFAR, SPLIT = "GNu/MNISTPerm/LeNet-250-tasks", "GG/splitcifar100", "GG/splitimagenet"
FROM_SCRIPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "supsup": (f"{PERM}/supsup_h", EXPERIMENTS["SupSup by threshold"]),
    "supsup-by-density": (f"{CIFAR}/rn18-supsup", EXPERIMENTS["SupSup by density"]),
    "transfer": (f"{CIFAR}/rn18-supsup-transfer", EXPERIMENTS["Transfer"]),
    "batche": (f"{PERM}/batche", EXPERIMENTS["BatchE"]),
    "batche-on-random-weights": (f"{CIFAR}/rn18-batche-randw", EXPERIMENTS["BatchE on random weights"]),
    "psp": (f"{PERM}/psp", EXPERIMENTS["PSP"]),
    "separate-heads": (f"{CIFAR}/rn18-separate-heads", EXPERIMENTS["Separate heads"]),
    "upper-bound": (f"{PERM}/upper_bound", EXPERIMENTS["Upper bound"]),
    "upper-bound-that-fine-tunes": (f"{CIFAR}/rn18-upperbound", EXPERIMENTS["Upper bound that fine-tunes"]),
    "lower-bound": (f"{PERM}/lower_bound", EXPERIMENTS["Lower bound"]),
    "nns": ("NNs/supsup", EXPERIMENTS["NNs"]),
    "hopsupsup": ("GNu/SplitMNIST/hopsupsup", EXPERIMENTS["HopSupSup"]),
    "imagenet": (
        f"{SPLIT}/rn50-supsup",
        IMAGENET | {"network": "ResNet18", "width": 1 / 64, "image_size": 32, "epochs": 3},
    ),
}
"""Scripts, and settings of their runs."""

TRAINING_WEIGHTS = {"method": "BatchE", "er_scale": None, "weights_learning_rate": 0.05, "learning_rate": 0.05}
INTERRUPTED = {
    "interrupted": (SUPSUP, "learning task 1"),
    "interrupted-within-a-task": (IMAGENET, "task 1: 17 of"),
    "interrupted-with-trained-weights": (IMAGENET | TRAINING_WEIGHTS, "task 1: 17 of"),
}
"""Settings, and the prefix of the progress message at which the run was interrupted."""

NOT_RESUMED = "interrupted-with-trained-weights"
"""Version 0.1 cannot resume this run: it compares weights that a task has trained with the initial weights."""

INFERRING = ("SupSup", "Transfer")


def command(script: str, settings: dict[str, Any]) -> list[str]:
    """Return the command line of a script with these settings."""
    path = f"experiments/{script}.py"
    shown = adapter.flags(path)
    wanted = adapter.experiment("pinned", **{name: _as_field(value) for name, value in settings.items()}).to_json()
    del wanted["name"], wanted["num_tasks"], wanted["eval_at"]
    words = [path, "--eval-at"]
    for name, value in wanted.items():
        flag = "--sparsity" if name == "er_scale" else f"--{name.replace('_', '-')}"
        if flag == "--sparsity" and value is None:
            continue
        if name not in settings and shown[flag] == str(value):
            continue
        if isinstance(value, bool):
            words += [flag if value else flag.replace("--", "--no-", 1)]
        else:
            words += [flag, str(value)]
    return words


def _as_field(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def neutral(folder: Path, temporary: Path) -> None:
    """Delete paths, names and files that are specific to the machine."""
    for path in [*folder.glob("events.out*"), *folder.glob("*.png"), *folder.glob(".*lock")]:
        path.unlink()
    for path in folder.rglob("commit_success.txt"):
        path.write_text(path.read_text().replace(f"{temporary}/", "/"))
    path = folder / "settings.yaml"
    if path.exists():
        text = path.read_text().replace(f"{temporary}/", "/")
        text = re.sub(r"^platform: .*$", "platform: Linux", text, flags=re.M)
        path.write_text(re.sub(r"^git_commit: .*$", "git_commit: null", text, flags=re.M))


def pack(name: str, folder: Path, temporary: Path) -> None:
    """Pack a run into its archive."""
    neutral(folder, temporary)

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = 0
        return entry

    with tarfile.open(stored_runs.RUNS / f"{name}.tar.xz", "w:xz", preset=9) as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name, filter=anonymous)


def write(name: str, **said: Any) -> None:
    """Write the JSON file of a run."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in said.items()]
    (stored_runs.RUNS / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def how_it_answers(settings: dict[str, Any], num_tasks: int) -> dict[str, Any]:
    """Return the predictions and evaluations that the method of a run supports."""
    method, nns = settings.get("method", "SupSup"), settings.get("scenario") == "NNs"
    masked, imagenet, hop = method in INFERRING, settings["dataset"] == "imagenet", method == "HopSupSup"
    tasks = np.repeat(np.arange(num_tasks), 12 // num_tasks if hop else 12).tolist()
    gnu = settings.get("scenario", "GNu") != "GG"
    return {
        "tasks": [] if hop else tasks,
        "infers": method != "LowerBound" and not imagenet,
        "searches": ["binary", "exhaustive"] if masked and not imagenet and not nns else [],
        "evaluates": ["given", "inferred"] if gnu else ["given"],
    }


def write_images(folder: Path, settings: dict[str, Any], num_tasks: int) -> None:
    """Write images, in the form that the network receives, into the folder of a run."""
    if settings["dataset"] == "imagenet":
        side = settings["image_size"]
        rng = np.random.default_rng(0)
        colours = rng.integers(0, 256, (12 * num_tasks, 1, 1, 3))
        images = np.clip(colours + rng.integers(-20, 21, (12 * num_tasks, side, side, 3)), 0, 255).astype(np.uint8)
    else:
        first = num_tasks if settings.get("method") != "HopSupSup" else 1
        images = np.concatenate([adapter.task_images(folder, task, 12)[0] for task in range(first)])
    np.save(folder / "images.npy", images)


def make(name: str, temporary: Path) -> None:
    """Create a run with a script."""
    script, settings = FROM_SCRIPTS[name]
    num_tasks = settings["num_tasks"] - 1
    words = command(script, settings)
    where = ["--log-dir", temporary / "runs", "--data", temporary / "data", "--tasks-at-once", 2]
    line = [sys.executable, *words, "--num-tasks", num_tasks, *where]
    subprocess.run([*map(str, line)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    (settings_file,) = (temporary / "runs" / script).glob("*/settings.yaml")
    place = settings_file.parent
    finish(name, temporary, place, settings, words, num_tasks)


def finish(
    name: str, temporary: Path, place: Path, settings: dict[str, Any], words: list[str] | None, num_tasks: int
) -> None:
    """Pack a run, and measure it before and after it is resumed."""
    how = how_it_answers(settings, num_tasks)
    write_images(place, settings, num_tasks)
    pack(name, place, temporary)
    folder = str(place.relative_to(temporary / "runs"))
    about = {"command": words, "folder": folder, "more_tasks": settings["num_tasks"], "how": how}
    write(name, **about)
    copy = stored_runs.unpack(name, temporary / "copy")
    before = {
        "predicted": stored_runs.predictions(copy, how),
        "evaluated": stored_runs.accuracies(copy, how, temporary / "data"),
        "numbers": stored_runs.measures(copy) if words else {},
    }
    if name == NOT_RESUMED:
        whole = temporary / "whole"
        whole.mkdir()
        adapter.run(settings, whole, temporary / "data")
        after = {"numbers": stored_runs.measures(whole)}
    else:
        stored_runs.resume(about, copy, temporary / "data")
        after = {"numbers": stored_runs.measures(copy), "contents": stored_runs.contents(copy)}
    write(name, **about, before=before, after=after)


def interrupt(name: str, temporary: Path) -> None:
    """Create a run that was interrupted."""
    settings, begins = INTERRUPTED[name]
    place = temporary / "runs" / "pinned/seed=1"
    place.mkdir(parents=True)
    experiment = experiment_of({"name": "pinned"} | settings, Path("settings"))
    dataset = data.load(experiment.dataset, temporary / "data", experiment.image_size)
    options = vars(Options(data=temporary / "data", log_dir=temporary / "runs", tasks_at_once=1))
    write_run(place, experiment, dataset, options, ["a script"])

    def report(said: Any) -> None:
        if said.message.startswith(begins):
            signal.raise_signal(signal.SIGTERM)

    sharded._PIECE = 0.0  # every step is a piece, after which a task can be interrupted
    try:
        with interruption.graceful(lambda _: None):
            adapter.run_experiment(experiment, dataset, place, 1, report)
    except KeyboardInterrupt:
        tasks = len(list((place / "checkpoints").glob("[0-9]*")))
        finish(name, temporary, place, settings, None, tasks)
    else:
        raise SystemExit(f"{name} was not interrupted")


def make_own(name: str, temporary: Path) -> None:
    """Create a run from Python."""
    settings = {key: SUPSUP[key] for key in ("width", "features", "initializer", "optimizer", "learning_rate", "steps")}
    run = adapter.own_run(num_classes=10, batch_size=32, **settings)
    for number in range(2):
        run.learn(stored_runs.own_task(number))
    place = temporary / "runs/own"
    run.save(place)
    pack(name, place, temporary)
    about = {"command": None, "folder": "own"}
    write(name, **about)
    run = ss.restore(stored_runs.unpack(name, temporary / "copy"))
    before = stored_runs.own_numbers(run)
    run.learn(stored_runs.own_task(2))
    after = {"predicted": stored_runs.own_numbers(run), "contents": stored_runs.contents(temporary / "copy/own")}
    write(name, **about, before={"predicted": before}, after=after)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    stored_runs.RUNS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or [*FROM_SCRIPTS, *INTERRUPTED, "from-python"]:
        with tempfile.TemporaryDirectory() as temporary:
            write_small_imagenet(Path(temporary, "data"))
            maker = make if name in FROM_SCRIPTS else interrupt if name in INTERRUPTED else make_own
            maker(name, Path(temporary))
            print(name)
