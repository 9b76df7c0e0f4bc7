"""Small experiments give the numbers in `stored/numbers.json`, up to rounding, on any machine and with any versions of
JAX and the libraries beside it. They use SGD because RMSprop amplifies rounding: its steps are long even where a
gradient is almost zero. They also compile as often as `stored/numbers.json` says.

`python tests/test_numbers.py` rewrites the file, after an intended change of what is learned or compiled. It takes
names of experiments, to rewrite only these.

`python tests/test_numbers.py --exact FILE` writes checksums of everything that the experiments compute, to the bit. To
compare two versions of the package, run it with both on one machine and `diff` the files.
"""

import argparse
import collections
import contextlib
import csv
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adapter
import jax
import numpy as np
import pytest
from toys import write_small_imagenet

import supsup_jax as ss

STORED = Path(__file__).parent / "stored/numbers.json"
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
"""Settings by the names of `settings.yaml`."""


def run(name: str, folder: Path, images: Path) -> None:
    """Runs an experiment in a folder, given one with images for the one that needs them."""
    adapter.run(EXPERIMENTS[name], folder, images)


def lines_of(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The lines of `metrics.jsonl` for tasks, and the last evaluation, without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in ("finished", "seconds", "training_seconds"):
            line.pop(name, None)
    return [line for line in lines if line["kind"] == "task"], lines[-1]


def rows_of(path: Path) -> list[list[str]]:
    """The rows of a table without its header; there are none if it was not written."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def numbers(folder: Path) -> dict[str, Any]:
    """The numbers of a run: losses, accuracies, and what is kept of its tasks."""
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
    """Bits of masks as hexadecimal numbers, and sums of other arrays."""
    if leaf.dtype == np.uint8:
        return leaf.tobytes().hex()
    return np.round(leaf.sum(axis=-1, dtype=np.float64), 5).tolist()


def digests(name: str, folder: Path) -> dict[str, Any]:
    """SHA-256 checksums of a run: all arrays, losses and tables without times, predictions for random images.

    Args:
        name: the experiment's.
        folder: the run's.
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
    """Counts what XLA compiles, or takes from JAX's cache on disk, by name, as in a process that has just begun."""
    counts: collections.Counter[str] = collections.Counter()

    def listen(event: str, seconds: float, **more: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            counts[str(more.get("fun_name"))] += 1

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def measured(name: str, folder: Path, images: Path) -> dict[str, Any]:
    """The numbers of an experiment, and how often it compiles each function."""
    with counted_compilations() as counts:
        run(name, folder, images)
    return numbers(folder) | {"compiled": dict(sorted(counts.items())), "jax": jax.__version__}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with a small ImageNet."""
    folder = tmp_path_factory.mktemp("data")
    write_small_imagenet(folder)
    return folder


SOME = ["SupSup by threshold", "SupSup by density", "Transfer", "GNs", "NNs", "HopSupSup", "BatchE", "PSP", "ImageNet"]
"""At least one for each scenario. The others are marked `long`; `test_stored_runs.py` has a run of each."""

TEST_IMAGES = {"HopSupSup": 62, "ImageNet": 30}
"""Test images of the smallest task, where there are fewer than 359."""


@pytest.fixture(
    scope="module",
    params=[name if name in SOME else pytest.param(name, marks=pytest.mark.long) for name in EXPERIMENTS],
)
def outcome(request, images, tmp_path_factory):
    """The numbers of an experiment now, the stored ones, and the tolerance of accuracies: two test images."""
    found = measured(request.param, tmp_path_factory.mktemp("run"), images)
    return found, json.loads(STORED.read_text())[request.param], 2.5 / TEST_IMAGES.get(request.param, 359)


def test_an_experiment_comes_out_as_it_did(outcome):
    found, expected, two_images = outcome
    assert (found["stream"], found["bytes"]) == (expected["stream"], expected["bytes"])
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-4)
    np.testing.assert_allclose(found["given"], expected["given"], atol=two_images)
    np.testing.assert_allclose(found["inferred"], expected["inferred"], atol=two_images)
    np.testing.assert_allclose(found["picked"], expected["picked"], atol=0.02)
    for part in ("kept", "weights"):
        for leaf, stored in zip(found[part], expected[part], strict=True):
            if isinstance(leaf, str):
                bits, stored_bits = (np.frombuffer(bytes.fromhex(digits), np.uint8) for digits in (leaf, stored))
                assert np.bitwise_count(bits ^ stored_bits).sum() <= 3
            else:
                np.testing.assert_allclose(leaf, stored, rtol=1e-3, atol=1e-3)


def test_an_experiment_compiles_as_often_as_it_did(outcome):
    found, expected, _ = outcome
    if expected["jax"] != jax.__version__:
        pytest.skip(f"the counts are those of JAX {expected['jax']}")
    assert found["compiled"] == expected["compiled"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--exact", type=Path, metavar="FILE", help="write checksums of all results to this file")
    parser.add_argument("names", nargs="*", default=list(EXPERIMENTS), help="experiments; by default all")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_small_imagenet(Path(folder, "data"))
        for name in arguments.names:
            runs = Path(folder, name)
            runs.mkdir()
            if arguments.exact:
                run(name, runs, Path(folder, "data"))
                found[name] = digests(name, runs)
            else:
                found[name] = measured(name, runs, Path(folder, "data"))
    if arguments.exact:
        arguments.exact.write_text(json.dumps(found, indent=1) + "\n")
    else:
        stored = json.loads(STORED.read_text()) if STORED.exists() else {}
        lines = [f"{json.dumps(name)}: {json.dumps(part)}" for name, part in (stored | found).items()]
        STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
