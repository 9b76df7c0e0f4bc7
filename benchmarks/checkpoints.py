"""Checkpoints of many tasks: seconds to restore them and to save more, and the number of files on disk.

The masks are drawn, not trained: LeNet with 500 outputs, eight tasks in a save, as in `LeNet-2500-tasks`, and an
evaluation after every 416 tasks. Everything else is the code of a run.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from compare import Case, Formulation

COUNTS = (2500, 360, 1112)
AT_ONCE = 8
EVERY = 416
SAVES = 64


def new_run(folder: Path) -> Any:
    """Return a run without tasks that is saved in a folder."""
    import supsup_jax as ss

    run = ss.Run.new(ss.networks.LeNet(features=500), inputs=ss.data.Inputs.new((28, 28, 1), 10))
    folder.mkdir()
    run.folder = folder
    return run


def add_tasks(run: Any, num_tasks: int) -> None:
    """Add tasks with drawn masks to a run, and evaluations with invented numbers, as its training would."""
    from supsup_jax.runs.records import EvaluationResult
    from supsup_jax.scenarios.work import Results
    from supsup_jax.training import Learned

    rng = np.random.default_rng(run.num_tasks)
    until = run.num_tasks + num_tasks
    with run.locked():
        while run.num_tasks < until:
            count = min(AT_ONCE, until - run.num_tasks)
            masks = {
                name: {"kernel": rng.random((count, *layer["kernel"].shape), np.float32) > 0.5}
                for name, layer in run.weights.items()
            }
            numbers = rng.random((count, 3), np.float32)
            finished = np.full(count, 1000, np.int32)
            run.add(Results(Learned(masks, None, None, {}, numbers, numbers, finished), 1.25))
            if run.num_tasks % EVERY == 0:
                accuracies = rng.random(run.num_tasks).tolist()
                pairs = [
                    [task, int(other), 79] for task, other in enumerate(rng.integers(0, run.num_tasks, len(accuracies)))
                ]
                storage = {"masks as bits": 39_400 * run.num_tasks}
                result = EvaluationResult(run.num_tasks, "2020-12-06 12:00:00", 60.0, 60.0, storage, accuracies)
                fields = ("inferred", "inferred_per_image", "picked", "picked_per_image")
                run.add_evaluation(
                    type(result)(**vars(result) | dict.fromkeys(fields, accuracies) | {"confusion": pairs})
                )


def on_disk(folder: Path) -> dict[str, int]:
    """Return the number of checkpoints of a run, and of their files."""
    files = sum(path.is_file() for path in (folder / "checkpoints").rglob("*"))
    return {"checkpoints": len(list((folder / "checkpoints").iterdir())), "files": files}


def restoring(num_tasks: int) -> Callable[[], Callable[[], object]]:
    """Return the preparation of restoring a run."""

    def prepare() -> Callable[[], object]:
        import supsup_jax as ss

        folder = Path(tempfile.mkdtemp()) / "run"
        add_tasks(new_run(folder), num_tasks)

        def call() -> dict[str, int]:
            assert ss.restore(folder).num_tasks == num_tasks
            return on_disk(folder)

        return call

    return prepare


def saving(num_tasks: int) -> Callable[[], Callable[[], object]]:
    """Return the preparation of saving more tasks after `num_tasks` others."""

    def prepare() -> Callable[[], object]:
        folder = Path(tempfile.mkdtemp()) / "run"
        run = new_run(folder)
        add_tasks(run, num_tasks)
        return lambda: add_tasks(run, AT_ONCE * SAVES)

    return prepare


def cases() -> list[Case]:
    """Return the cases: restoring, and saving with all merges that it leads to."""
    return [
        Case(
            "Restoring tasks of LeNet",
            1,
            "runs",
            {f"{count:,} tasks": Formulation(restoring(count)) for count in COUNTS},
        ),
        Case(
            f"Saving 8 more tasks of LeNet, {SAVES} times",
            SAVES,
            "saves",
            {f"after {count:,} tasks": Formulation(saving(count), once=True) for count in (0, *COUNTS)},
        ),
    ]
