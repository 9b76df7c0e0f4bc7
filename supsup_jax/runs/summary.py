"""What is in a run, as plain data."""

from typing import Any

import jax
import numpy as np

from supsup_jax import bank as banks
from supsup_jax.runs import formats, results, storage
from supsup_jax.runs.run import Run


def summary(run: Run) -> dict[str, Any]:
    """Tasks, accuracies in fractions, densities, bytes and versions of a run.

    Densities are those of the masks that it has learned: of each layer the mean over tasks.
    """
    evaluations = {result.num_tasks: result for result in run.record.evaluations}
    last = evaluations[max(evaluations)] if evaluations else None
    account = run.account()
    settings = results.read_settings(run.folder) if run.folder else {}
    experiment = formats.plain(run.experiment)
    return {
        "run": str(run.folder),
        "name": run.experiment.name,
        "method": experiment["method"],
        "network": experiment["network"],
        "scenario": experiment["scenario"],
        "seed": run.experiment.seed,
        "inputs": run.inputs._asdict(),
        "outputs": run.net.num_outputs,
        "weights": sum(int(np.size(leaf)) for leaf in jax.tree.leaves(run.weights)),
        "tasks": run.num_tasks,
        "own_tasks": sum(result.labels is not None for result in run.record.tasks),
        "learned": {
            "accuracy": [result.accuracy for result in run.record.tasks],
            "loss": [result.loss for result in run.record.tasks],
        },
        "evaluated": last
        and {
            "tasks": last.num_tasks,
            "given": float(np.mean(last.given)),
            "inferred": None if last.inferred is None else float(np.mean(last.inferred)),
            "picked": None if last.picked is None else float(np.mean(last.picked)),
        },
        "densities": _densities(run),
        "bytes": account | {"all": storage.total(account)},
        "versions": settings.get("versions"),
        "settings": experiment,
    }


def _densities(run: Run) -> dict[str, float]:
    """The fraction of its weights that the masks of each layer keep, the mean over tasks."""
    if not run.method.has_masks:
        return {}
    bank = banks.first(run.bank, run.num_tasks)
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(bank))
    return {
        jax.tree_util.keystr(path[:-1], simple=True, separator="/"): int(np.bitwise_count(leaf).sum(dtype=np.int64))
        / (leaf[..., 0].size * run.num_tasks)
        for path, leaf in leaves
    }
