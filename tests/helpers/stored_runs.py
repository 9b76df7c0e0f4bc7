"""Runs of version 0.1 in `stored/runs`: unpack and measure them.

Each run has an archive with its folder and with images in the form that its network receives, and a JSON file with the
command that started it and the measurements at that time. `stored/make_runs.py` wrote both.
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import yaml

import supsup_jax as ss
from helpers import adapter
from helpers.numbers import numbers
from supsup_jax.data.sources import digits

RUNS = Path(__file__).parents[1] / "stored/runs"
NAMES = sorted(path.stem for path in RUNS.glob("*.json"))


def expected_of(name: str) -> dict[str, Any]:
    """Return the JSON file of a run: its command, and its measurements before and after it was resumed."""
    return json.loads((RUNS / f"{name}.json").read_text())


def unpack(name: str, folder: Path) -> Path:
    """Unpack a run below a folder for results, where its command would have written it, and return the run's folder."""
    run = folder / expected_of(name)["folder"]
    with tarfile.open(RUNS / f"{name}.tar.xz") as archive:
        archive.extractall(run, filter="data")
    return run


def predictions(folder: Path, how: dict[str, Any]) -> dict[str, Any]:
    """Return labels and tasks that a run predicts for the images in its folder.

    Args:
        folder: folder of the run.
        how: `tasks`, the task of each image, empty if the method does not accept it; `infers`, whether to infer the
            task; `searches`, further searches to infer it with.
    """
    run, images = ss.restore(folder), np.load(folder / "images.npy")
    found = {}
    if how["tasks"]:
        found["labels, task given"] = run.predict(images, task=np.array(how["tasks"])).labels.tolist()
    if how["infers"]:
        predicted = run.predict(images)
        found |= {"labels, task inferred": predicted.labels.tolist(), "tasks": predicted.tasks.tolist()}
    for search in how["searches"]:
        found[f"tasks, {search}"] = run.infer_task(images, search=search).tolist()
    return found


def accuracies(folder: Path, how: dict[str, Any], images: Path | None) -> dict[str, list[float]]:
    """Return the accuracies of all tasks, measured by `evaluate`.

    Args:
        folder: folder of the run.
        how: `evaluates`, a list of "given" and "inferred".
        images: folder of the small ImageNet.
    """
    run = ss.restore(folder)
    return {task: ss.evaluate(run, task=task, data=images).accuracy.round(4).tolist() for task in how["evaluates"]}


def measures(folder: Path) -> dict[str, Any]:
    """Return the numbers in the files of a run."""
    return {name: value for name, value in numbers(folder).items() if name not in ("kept", "weights")}


def resume(expected: dict[str, Any], folder: Path, images: Path) -> None:
    """Resume a run: with its settings and more tasks, or, if it was interrupted, with `python -m supsup_jax run`.

    The settings come from a YAML file in the form of version 0.1, because defaults of scripts have changed since.

    Args:
        expected: its JSON file.
        folder: folder of the run, as returned by `unpack`.
        images: folder of the small ImageNet.
    """
    if expected["command"] is None:
        adapter.call("-m", "run", folder, "--data", images)
        return
    results = folder.parents[len(Path(expected["folder"]).parts) - 1]
    settings = yaml.safe_load((folder / "settings.yaml").read_text())["experiment"]
    settings["sparsity"] = settings.pop("er_scale")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({name: value for name, value in settings.items() if value is not None}))
    where = ["--log-dir", results, "--data", images, "--resume"]
    adapter.call("experiments/quickstart.py", "--config", config, "--num-tasks", expected["more_tasks"], *where)


def own_task(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of a task for `Run.learn`: digits in quarter turns; labels are strings or integers."""
    with np.load(digits.FILE) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(int)
    images = np.rot90(images * (255 / 16), number, axes=(1, 2)).astype(np.uint8)[..., None]
    if number == 1:
        return images, 10 * labels
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    return images, np.array(names)[labels]


def own_numbers(run: Any) -> dict[str, Any]:
    """Return labels and tasks that a run from Python predicts."""
    images, tasks = own_images(run.num_tasks)
    return {
        "labels, task given": run.predict(images, task=tasks).labels.tolist(),
        "tasks": run.predict(images).tasks.tolist(),
    }


def own_images(num_tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return twelve images of each task of `own_task`, and their tasks."""
    images = np.concatenate([own_task(number)[0][:12] for number in range(num_tasks)])
    return images, np.repeat(np.arange(num_tasks), 12)


def contents(folder: Path) -> dict[str, Any]:
    """Return the contents of a run's checkpoints: arrays of each checkpoint, keys of the records, bytes on disk."""
    arrays, keys, size = {}, set(), 0
    for place in ("checkpoints", "state", "unfinished"):
        for step in sorted((folder / place).glob("[0-9]*")):
            if (step / "arrays").is_dir():
                arrays[f"{place}/{step.name}"] = _arrays_in(step)
            if (step / "record").is_dir():
                keys |= set(_keys_in(json.loads((step / "record/metadata").read_text())))
            size += sum(path.stat().st_size for path in step.rglob("*") if path.is_file())
    return {"arrays": arrays, "keys": sorted(keys), "bytes": size, "orbax": ocp.__version__}


def _arrays_in(step: Path) -> dict[str, str]:
    """Return dtypes and shapes of the arrays of a checkpoint, by name."""
    handlers = {"arrays": ocp.StandardCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}
    with ocp.CheckpointManager(step.parent.absolute(), item_handlers=handlers) as manager:
        tree = manager.item_metadata(int(step.name))["arrays"].tree
    leaves = dict(_leaves_in(tree))
    return {
        "/".join(path): "None" if leaves[path] is None else f"{leaves[path].dtype}{list(leaves[path].shape)}"
        for path in sorted(leaves)
    }


def _leaves_in(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, dict):
        return [(path, tree)]
    return [pair for name, part in tree.items() for pair in _leaves_in(part, (*path, name))]


def _keys_in(plain: Any, path: str = "") -> list[str]:
    """Return the paths of all values in plain data; the items of a list share one path."""
    if isinstance(plain, dict) and plain:
        return [key for name, part in plain.items() for key in _keys_in(part, f"{path}/{name}")]
    if isinstance(plain, list) and plain and isinstance(plain[0], dict):
        return [key for part in plain for key in _keys_in(part, f"{path}/*")]
    return [path]
