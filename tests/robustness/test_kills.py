"""Runs that are killed at random moments and resumed have the same results as undisturbed runs."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

import supsup_jax
from supsup_jax.runs.checkpoints import Checkpoints

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
LENET = "GNu/MNISTPerm/LeNet-250-tasks"
SMALL = (
    "--dataset digits --num-tasks 5 --eval-at 3 --steps 12 --batch-size 16 --width 0.1 "
    "--learning-rate 1e-2 --tasks-at-once 1"
)
SCRIPTS = {
    "SupSup": f"{LENET}/supsup_h.py {SMALL}",
    "BatchE": f"{LENET}/batche.py {SMALL} --scenario GNu --search exhaustive",
    "PSP": f"{LENET}/psp.py {SMALL} --weights-learning-rate 1e-2",
    "Transfer": f"{LENET}/supsup_h.py {SMALL} --method Transfer --scenario GG",
    "NNs": f"NNs/supsup.py {SMALL} --check-every 8 --fewest-masks 2 --novelty 1.05",
    "HopSupSup": f"GNu/SplitMNIST/hopsupsup.py {SMALL} --test-batch-size 16 --width 0.02 --learning-rate 0.1",
    "LowerBound": f"{LENET}/psp.py {SMALL} --method LowerBound --weights-learning-rate 1e-2",
}
KILLS = 15
"""Minimum number of kills for each method."""

TIMES = {"Date Finished", "finished", "seconds", "training_seconds"}
STATUSES = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15}, signal.SIGINT: {130, -2}}


@pytest.fixture(autouse=True)
def handled_by_python():
    """Install Python's handler of SIGINT: background jobs of a shell, and their processes, ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(method, log_dir, **environment):
    script, *arguments = SCRIPTS[method].split()
    command = [sys.executable, str(EXPERIMENTS / script), *arguments, "--log-dir", str(log_dir), "--resume"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | environment, **pipes)


def files_of(method, log_dir, pattern):
    """List files in the run's folder, or in two folders if the run was first killed before it wrote its settings."""
    return list((log_dir / SCRIPTS[method].split(".py")[0]).glob(f"seed=1*/{pattern}"))


def without_times(plain):
    if isinstance(plain, dict):
        return {name: without_times(value) for name, value in plain.items() if name not in TIMES}
    return [without_times(value) for value in plain] if isinstance(plain, list) else plain


def results_of(method, log_dir):
    """Return the tables, metrics, checkpoint records and arrays of a run, without times."""
    (settings,) = files_of(method, log_dir, "settings.yaml")
    run = settings.parent
    tables = {}
    for path in [*run.glob("*.csv"), run.parent / "results.csv"]:
        with path.open(newline="") as file:
            rows = [without_times(row) for row in csv.DictReader(file)]
        for row in rows:
            if "Name" in row:
                row["Name"] = row["Name"].replace(run.name, "run")
            assert row.pop("Save Directory", str(run)) == str(run)
        tables[path.name] = rows
    assert len({row["Name"] for row in tables["results.csv"]}) == len(tables["results.csv"]) == 5
    metrics = [without_times(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with Checkpoints(run) as checkpoints:
        steps = [without_times(record) for record in checkpoints.records()]  # includes checksums of the arrays
    restored = supsup_jax.restore(run)
    arrays = restored.weights, restored.stats, restored.bank
    assert len(list(run.glob("events.*"))) == 1 and (run / "accuracy.png").stat().st_size
    return tables, metrics, steps, jax.device_get(arrays)


def check_equal(ours, expected):
    assert ours[:3] == expected[:3]
    jax.tree.map(np.testing.assert_array_equal, ours[3], expected[3])


def wait_for_moment(process, method, log_dir, rng, duration):
    """Wait for the end of a run or a random moment: any, right after a checkpoint, or after the last task."""

    def saved():
        return len(files_of(method, log_dir, "checkpoints/*")) + len(files_of(method, log_dir, "state/*"))

    def learned():
        return sum(path.read_text().count('"kind": "task"') for path in files_of(method, log_dir, "metrics.jsonl")) == 5

    kind, more, until = rng.integers(4), saved() + rng.integers(1, 6), time.monotonic() + rng.uniform(0, duration)
    while process.poll() is None:
        if kind == 0 and saved() >= more:
            return time.sleep(rng.uniform(0, 0.03))
        if kind == 1 and learned():
            return time.sleep(rng.uniform(0, 0.2 * duration))
        if kind > 1 and time.monotonic() > until:
            return None
        time.sleep(0.002)


def kill_until_it_is_finished(method, log_dir, rng, duration):
    """Resume and kill a run until it is finished; return the number of kills, and the last attempt's duration."""
    for kills in itertools.count():
        started = time.monotonic()
        # The compilation cache is only read, since a kill could leave a partly written file.
        with start(method, log_dir, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="1e9") as process:
            wait_for_moment(process, method, log_dir, rng, duration)
            number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            process.send_signal(number)
            stdout, stderr = process.communicate()
        if process.returncode == 0:
            return kills, time.monotonic() - started
        # During the import of JAX, SIGINT may cause any exit status, even a segmentation fault.
        if stdout or number != signal.SIGINT:
            assert process.returncode in STATUSES[number], (number, process.returncode, stderr)
        if stdout and process.returncode in (130, 143):
            assert stderr.startswith("interrupted; resume ") and stderr.count("\n") == 1, stderr


def check(method, folder, seed, least):
    """Kill runs of a method `least` times, compare each with an undisturbed run, and return the number of kills."""
    started = time.monotonic()
    with start(method, folder / "undisturbed") as process:
        _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    duration = (time.monotonic() - started) / 2  # later runs do not compile
    expected = results_of(method, folder / "undisturbed")
    rng, kills = np.random.default_rng(seed), [0]
    while sum(kills) < least:
        log_dir = folder / f"killed{len(kills)}"
        more, duration = kill_until_it_is_finished(method, log_dir, rng, duration)
        check_equal(results_of(method, log_dir), expected)
        kills.append(more)
    return sum(kills)


@pytest.mark.thorough
def test_a_run_that_is_killed_a_few_times_has_the_same_results(tmp_path):
    assert check("LowerBound", tmp_path, seed=0, least=1) >= 1


@pytest.mark.long
def test_killed_runs_of_every_method_have_the_same_results(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        killed = pool.map(lambda method: check(method, tmp_path / method, len(method), KILLS), SCRIPTS)
        assert sum(killed) >= 100
