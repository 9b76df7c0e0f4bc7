"""Stub of the training in the scripts of test_reproducing: a task takes `STUB_SECONDS`, and SIGTERM saves and ends."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from helpers import adapter
from supsup_jax.runs import results
from supsup_jax.runs.records import EvaluationResult, Record, TaskResult

WHEN = "2020-12-06 12:00:00"


def main(experiment, accuracy):
    """Learn one task after another, each with this accuracy; append the arguments of each call to `calls.txt`."""
    parser = argparse.ArgumentParser()
    for flag in ("data", "log-dir", "learned-in"):
        parser.add_argument(f"--{flag}", type=Path)
    for flag, kind in (("seed", int), ("num-tasks", int), ("sparsity", float)):
        parser.add_argument(f"--{flag}", type=kind)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    with (options.log_dir.absolute().parent / "calls.txt").open("a") as file:
        file.write(f"{experiment.name} {' '.join(sys.argv[5:])}\n")
    called = experiment.name + (" with tasks of a different run" if options.learned_in else "")
    if called.endswith(os.environ.get("STUB_FAILS", "none")):
        sys.exit(3)
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    parent = options.log_dir / experiment.name
    earlier = results.existing_folders(parent, f"seed={options.seed}") if options.resume else []
    folder = earlier[0] if earlier else results.new_folder(parent, f"seed={options.seed}")
    learned = int((folder / "learned").read_text()) if earlier else 0
    settings = adapter.plain(experiment) | {"seed": options.seed, "num_tasks": options.num_tasks}
    taken = {} if options.learned_in is None else {"learned_in": str(options.learned_in)}
    results.write_settings(folder, {"experiment": settings, "options": {"data": "", "tasks_at_once": None} | taken})
    (folder / "checkpoints").mkdir(exist_ok=True)
    while learned < options.num_tasks and not ended:
        time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
        learned += 1
        (folder / "learned").write_text(str(learned))
    counts = [count for count in {*experiment.evaluate_at, options.num_tasks} if count <= learned]
    tasks = [TaskResult(task, WHEN, 0.1, accuracy, accuracy, 0.01) for task in range(learned)]
    evaluations = [
        EvaluationResult(count, WHEN, 0.01, 0.01 * count, {}, [accuracy] * count, [accuracy] * count)
        for count in sorted(counts)
    ]
    results.write_files(folder, folder.name, Record(tasks, evaluations))
    sys.exit(143 if ended else 0)
