"""Import of files of the original implementation as runs."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from supsup_jax import masks
from supsup_jax.compat.torch.contents import (
    Leaf,
    architecture_of,
    inputs_of,
    leaves_of,
    method_of,
    numbers_of,
    settings_of,
)
from supsup_jax.compat.torch.layout import with_torch_names
from supsup_jax.compat.torch.reading import File, read
from supsup_jax.errors import UserError, reason
from supsup_jax.runs import composition
from supsup_jax.runs.description import describe
from supsup_jax.runs.records import TaskResult, from_plain, masks_as_hex, now
from supsup_jax.runs.run import Run
from supsup_jax.runs.settings import checked
from supsup_jax.runs.task_store import LearnedTasks
from supsup_jax.system import numerics
from supsup_jax.system.progress import Progress

_AT_ONCE = 64
"""Number of tasks whose scores are in memory at the same time; afterwards only their masks are kept."""


@numerics.with_fixed_flags
def import_torch(path: Path, output: Path, **settings: Any) -> Path:
    """Convert a file of the original implementation, or of `export_torch`, to a run that `supsup_jax.restore` opens.

    No pickled code in the file is executed. The network is determined from the tensors, everything else from the
    arguments that the original saved with them, if there are any.

    Args:
        path: a `final.pt` of the original, or a file with only a state dictionary.
        output: a new folder for the run.
        settings: fields of `supsup_jax.experiment.Experiment` that the file lacks, or to replace: for example
            `benchmark`, `seed` and, for ResNets, `er_scale`; `num_tasks` to import only the first tasks (required if
            tasks were discovered); `method="UpperBound"` to import the effective weights of every task.

    Returns:
        The folder of the run.

    Raises:
        UserError: if the file cannot be used or does not fit the settings, or the folder contains a run already.
    """
    path = Path(path).expanduser()
    settings = checked(settings, Path("import_torch"))
    file = read(path)
    with _errors_naming_file(path):
        architecture = architecture_of(file, settings)
        inputs = inputs_of(file, architecture, settings)
        shapes_alone: dict[str, Any] = {"dataset": "own", "benchmark": "own", "method": "UpperBound", "scenario": "GG"}
        alone = composition.experiment_of({"name": "imported", "initializer": "stored"} | shapes_alone | architecture)
        net = alone.network.for_images(inputs.image_shape)
        numbers = numbers_of(file, settings)
        shapes, stats = jax.eval_shape(net.init, numerics.key(0))
        rule, leaves = leaves_of(file, shapes, net.head, architecture["network"], settings)
        method = method_of(file, leaves, net.head, settings)
        fields: dict[str, Any] = settings_of(file, method, numbers, settings) | architecture
        fields |= rule if method in ("SupSup", "Transfer") else dict.fromkeys(rule)
        experiment = composition.experiment_of(fields)
    run = Run(experiment, inputs)
    _learn(run, file, leaves, stats, numbers)
    run.save(output)
    return output


@contextmanager
def _errors_naming_file(path: Path) -> Iterator[None]:
    """Raise errors from malformed arguments in the file as `UserError` that names the file."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} has arguments unlike the original's ({reason(error)}); give a file with only its state_dict"
        ) from error


def _learn(run: Run, file: File, leaves: list[Leaf], fresh: Any, numbers: list[int]) -> None:
    """Add the base weights and the tasks of a file to a run without tasks."""
    assert isinstance(run.tasks, LearnedTasks)
    settings = composition.settings_of(run.experiment)
    structure, method = jax.tree.structure(run.weights), settings["method"]
    weights = [_base_weights(file, leaf) for leaf in leaves]
    run.weights = structure.unflatten(leaf.to_jax(weight) for leaf, weight in zip(leaves, weights, strict=True))
    named = with_torch_names(fresh, settings["network"])
    total = [np.zeros(leaf.shape, np.float32) for leaf in leaves]  # sum of scores, from which Transfer continues
    hexes: list[str] = []
    adapter: Any = {}
    progress = Progress("importing", len(numbers), "tasks")
    for start in range(0, len(numbers), _AT_ONCE):
        chosen, rows, stats = numbers[start : start + _AT_ONCE], [], []
        for task in chosen:
            pairs = zip(leaves, weights, strict=True)
            adapter_leaves = [_adapter_leaf(file, leaf, weight, task, method) for leaf, weight in pairs]
            adapter = {} if method == "LowerBound" else structure.unflatten(adapter_leaves)
            rows.append(adapter[run.net.head] if method == "SeparateHeads" else adapter)
            norms = (file.array(file.name(layer, name, task), like.shape) for layer, name, like in named)
            stats.append(jax.tree.structure(fresh).unflatten(norms))
            if method == "Transfer":
                scores = (file.array(file.name(leaf.layer, "scores", task)) for leaf in leaves)
                total = [before + leaf.to_jax(array) for before, leaf, array in zip(total, leaves, scores, strict=True)]
        stacked, norms = (jax.tree.map(lambda *arrays: np.stack(arrays), *trees) for trees in (rows, stats))
        chunk, replaced = run.tasks.chunk(stacked, norms, len(chosen))
        run.tasks.add(chunk)
        run.tasks.replace(replaced)
        hexes += masks_as_hex(stacked) if method == "HopSupSup" else []
        progress.add(len(chosen))
    if "legacy" in run.tasks.state_shapes():
        carry: Any = run.method.first_carry(run.weights) if method == "SeparateHeads" else adapter
        if method == "Transfer":
            carry = {"total": structure.unflatten(total), "tasks": np.asarray(len(numbers), np.int32)}
        run.tasks.replace({"legacy": carry})
    run.record.tasks += _results(run, file, numbers, hexes)
    run.about = describe(run.experiment, run.inputs, run.weights)


def _base_weights(file: File, leaf: Leaf) -> np.ndarray:
    """Return the base weights of a leaf in the original's layout: ones for gains, since only their masks differ."""
    return (
        np.ones(leaf.torch_shape, np.float32)
        if leaf.kind == "gain"
        else file.array(f"{leaf.layer}.{leaf.name}", leaf.torch_shape)
    )


def _adapter_leaf(file: File, leaf: Leaf, weight: np.ndarray, task: int, method: str) -> Any:
    """Return a leaf of a task's adapter: a mask, vectors, or the effective weights, depending on the method."""

    def array(name: str, shape: tuple[int, ...] = leaf.torch_shape) -> np.ndarray:
        return file.array(file.name(leaf.layer, name, task), shape)

    if leaf.kind == "shared":
        # The adapter has no array for this leaf.
        empty = {"BatchE": {}, "HopSupSup": None}
        return empty[method] if method in empty else leaf.to_jax(weight)
    if leaf.kind == "gain":
        return (array("scores") >= 0).astype(np.float32)
    if leaf.kind == "own":
        return leaf.to_jax(array("scores"))
    outputs, inputs = leaf.torch_shape[:2]
    if leaf.kind == "contexts":
        return leaf.to_jax((weight[..., 0, 0] @ array("contexts", (inputs, inputs)))[..., None, None])
    if leaf.kind == "s":
        s, t = array("s", (outputs,)), array("t", (inputs,))
        return {"s": s, "t": t} if method == "BatchE" else leaf.to_jax(weight * np.outer(s, t)[..., None, None])
    mask = _mask(array("scores"), leaf.density)
    return leaf.to_jax(mask if method in ("SupSup", "Transfer") else weight * mask)


def _mask(scores: np.ndarray, density: float | None) -> np.ndarray:
    """Return the mask of scores in the original's layout; of equal scores, the later ones in this layout are kept."""
    if density is None:
        return scores >= 0
    kept = np.argsort(np.abs(scores), axis=None, kind="stable")[scores.size - masks.num_kept(scores.size, density) :]
    mask = np.zeros(scores.size, bool)
    mask[kept] = True
    return mask.reshape(scores.shape)


def _results(run: Run, file: File, numbers: list[int], hexes: list[str]) -> list[TaskResult]:
    """Return the results of the tasks: stored by `export_torch`, or the original's accuracies, NaN if missing."""
    if measured := file.exported.get("tasks"):
        return [from_plain(TaskResult, result) for result in measured[: len(numbers)]]
    labels = (
        list(range(run.inputs.num_classes)) if composition.settings_of(run.experiment)["benchmark"] == "own" else None
    )

    def accuracy_of(stored: Any, number: int) -> float:
        if isinstance(stored, list | tuple):
            stored = stored[number] if number < len(stored) else None
        return float(stored) if isinstance(stored, int | float) else math.nan

    results = []
    for place, number in enumerate(numbers):
        accuracy, best = (accuracy_of(stored, number) for stored in file.accuracies)
        task, mask = run.experiment.first_task + place, hexes[place] if hexes else None
        results.append(TaskResult(task, now(), None, accuracy, best, math.nan, mask, labels))
    return results
