"""Small experiments of every method and scenario, and all numbers that they compute."""

import collections
import contextlib
import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import supsup_jax as ss
from helpers import adapter

SUPSUP = {
    "dataset": "digits",
    "width": 0.1,
    "features": 12,
    "initializer": "kaiming_normal",
    "optimizer": "SGD",
    "learning_rate": 0.3,
    "num_tasks": 3,
    "steps": 100,
    "batch_size": 32,
    "eval_at": [3],
}
GIVEN = SUPSUP | {"scenario": "GG", "weights_learning_rate": 0.05}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "SupSup by threshold": SUPSUP,
    "SupSup by density": SUPSUP | {"er_scale": 4.0},
    "Transfer": SUPSUP | {"method": "Transfer", "er_scale": 4.0, "learning_rate": 0.1},
    "GNs": SUPSUP
    | {
        "scenario": "GNs",
        "benchmark": "RotatedMNIST",
        "search": "binary",
        "objective": "superfluous",
        "images_per_pick": 32,
        "test_batch_size": 32,
        "learning_rate": 0.1,
    },
    "NNs": SUPSUP
    | {
        "scenario": "NNs",
        "width": 0.15,
        "features": 30,
        "check_every": 50,
        "check_epochs": False,
        "most_masks": 10,
    },
    "HopSupSup": SUPSUP
    | {
        "method": "HopSupSup",
        "benchmark": "SplitMNIST",
        "network": "BNNet",
        "width": 0.03,
        "search": "recovery",
        "recovery_learning_rate": 20.0,
        "learning_rate": 0.1,
        "test_batch_size": 32,
        "initializer": "signed_constant",
    },
    "BatchE": SUPSUP | {"method": "BatchE", "scenario": "GG"},
    "BatchE on random weights": GIVEN | {"method": "BatchE", "random_weights": True},
    "PSP": GIVEN | {"method": "PSP"},
    "Separate heads": GIVEN | {"method": "SeparateHeads"},
    "Upper bound": GIVEN | {"method": "UpperBound", "learning_rate": 0.05},
    "Upper bound that fine-tunes": GIVEN | {"method": "UpperBound", "learning_rate": 0.05, "fine_tunes": True},
    "Lower bound": GIVEN | {"method": "LowerBound"},
    "ImageNet": {
        "dataset": "imagenet",
        "benchmark": "SplitImageNet",
        "width": 0.05,
        "features": 10,
        "image_size": 14,
        "er_scale": 8.0,
        "scenario": "GG",
        "num_tasks": 2,
        "epochs": 10,
        "batch_size": 16,
        "optimizer": "SGD",
        "learning_rate": 0.3,
        "schedule": "cosine",
        "warmup_epochs": 1,
    },
}
"""Settings by their names in `settings.yaml`."""


def run(name: str, folder: Path, images: Path) -> None:
    """Run an experiment in a folder; `images` is the folder of the small ImageNet."""
    adapter.run(EXPERIMENTS[name], folder, images)


def lines_of(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the lines of `metrics.jsonl` for tasks, and the last evaluation, without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in ("finished", "seconds", "training_seconds"):
            line.pop(name, None)
    return [line for line in lines if line["kind"] == "task"], lines[-1]


def rows_of(path: Path) -> list[list[str]]:
    """Return the rows of a table without its header; empty if the file does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def numbers(folder: Path) -> dict[str, Any]:
    """Return the numbers of a run: losses, accuracies, adapters and weights."""
    tasks, means = lines_of(folder)
    matrix = {row[1]: [float(value) for value in row[2:]] for row in rows_of(folder / "accuracy_matrix.csv")}
    arrays = adapter.arrays(ss.restore(folder))
    return {
        "losses": [task["loss"] for task in tasks if "loss" in task],
        "given": matrix["given"],
        "inferred": matrix.get("inferred", []),
        "picked": means.get("picked", 1.0),
        "bytes": means["kept_bytes"],
        "stream": [[int(value) for value in row] for row in rows_of(folder / "stream.csv")],
        "kept": [_short(leaf) for leaf in arrays["kept"]],
        "weights": [_short(leaf) for leaf in arrays["weights"]],
    }


def _short(leaf: np.ndarray) -> str | list[Any]:
    """Return the bits of masks as hexadecimal digits, and sums of other arrays."""
    if leaf.dtype == np.uint8:
        return leaf.tobytes().hex()
    return np.round(leaf.sum(axis=-1, dtype=np.float64), 5).tolist()


def digests(name: str, folder: Path) -> dict[str, Any]:
    """Return SHA-256 checksums of a run: arrays, losses and tables without times, and predictions for random images.

    Args:
        name: name of the experiment.
        folder: folder of the run.
    """
    run, method = ss.restore(folder), EXPERIMENTS[name].get("method")
    arrays = adapter.arrays(run)
    side, channels = (14, 3) if name == "ImageNet" else (8, 1)
    images = np.random.default_rng(0).integers(0, 256, (40, side, side, channels), dtype=np.uint8)
    arrays["predicted"] = [run.predict(images, task=None if method == "HopSupSup" else 1).logits]
    if method not in ("HopSupSup", "LowerBound"):
        arrays["inferred"] = [*run.infer_task(images, return_scores=True)]
    exact: dict[str, Any] = {
        part: [_sha256(f"{leaf.dtype} {leaf.shape}".encode() + leaf.tobytes()) for leaf in leaves]
        for part, leaves in arrays.items()
    }
    exact["metrics"] = _sha256(json.dumps(lines_of(folder), sort_keys=True).encode())
    for table in ("accuracy_matrix", "metrics", "storage", "confusion", "recovery", "stream"):
        exact[f"{table}.csv"] = _sha256(json.dumps(rows_of(folder / f"{table}.csv")).encode())
    return exact


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def counted_compilations() -> Iterator[collections.Counter[str]]:
    """Count the programs that XLA compiles or loads from the disk cache, by function, with empty caches in memory."""
    counts: collections.Counter[str] = collections.Counter()

    def listen(event: str, seconds: float, **details: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            counts[str(details.get("fun_name"))] += 1

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def measured(name: str, folder: Path, images: Path) -> dict[str, Any]:
    """Return the numbers of an experiment, and how often it compiles each function."""
    with counted_compilations() as counts:
        run(name, folder, images)
    return numbers(folder) | {"compiled": dict(sorted(counts.items())), "jax": jax.__version__}
