"""Folders of runs of the paper's experiments, and colours of figures."""

import numpy as np
from matplotlib.image import imread

from helpers import adapter
from supsup_jax.methods.supsup import SPARSE
from supsup_jax.paper import scripts
from supsup_jax.runs import results
from supsup_jax.runs.records import EvaluationResult, Record, TaskResult

LENET, FC, LONG = (f"GNu/MNISTPerm/{folder}-tasks" for folder in ("LeNet-250", "FC-250", "LeNet-2500"))
CIFAR = "GG/splitcifar100/rn18"
HOPSUPSUP = "GNu/SplitMNIST/hopsupsup"


def write_run(root, name, seed, given, inferred=None, recovery=None, learned=(), evaluate_at=(2,), **settings):
    """Write the folder of a run with the settings of its script, except for the ones given here.

    `given` and `inferred` are the accuracies of all tasks, recorded after 2 tasks and after all tasks. `learned` are
    the accuracies right after training.
    """
    folder = results.new_folder(root / name, f"seed={seed}")
    script = scripts.script_of(name)
    expected = adapter.plain(script.experiment) if script else {"steps": 9}
    results.write_settings(folder, {"experiment": expected | {"name": name, "seed": seed} | settings})
    evaluations = [
        EvaluationResult(
            count,
            "2020-12-06 12:00:00",
            1.0,
            1.0,
            {"masks as bits": 8_250_000, SPARSE: 4_000_000},
            given[:count],
            inferred and inferred[:count],
        )
        for count in sorted({*evaluate_at, len(given)})
    ]
    if recovery:
        evaluations[-1] = EvaluationResult(**vars(evaluations[-1]) | {"recovery": recovery})
    tasks = [TaskResult(task, "2020-12-06 12:00:00", 0.1, value, value, 0.5) for task, value in enumerate(learned)]
    results.write_files(folder, folder.name, Record(tasks, evaluations))
    (folder / "checkpoints").mkdir()
    return folder


def paths(tasks, steps):
    """Return recoveries of masks; their last step has only a distance."""
    values = np.linspace(1, 0, steps).tolist()
    return [{"hamming": [*values, 0.0], "energy": values, "entropy": values} for _ in range(tasks)]


def colours(path):
    """Return the colours of a picture, as values from 0 to 255."""
    red, green, blue = np.moveaxis(np.round(255 * imread(path)[..., :3]).astype(int), -1, 0)
    packed = np.unique(red << 16 | green << 8 | blue)  # integers, which are sorted faster than rows
    return {(colour >> 16, colour >> 8 & 255, colour & 255) for colour in packed.tolist()}
