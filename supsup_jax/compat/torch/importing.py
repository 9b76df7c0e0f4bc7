"""Runs from the original's files."""

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
from supsup_jax.compat.torch.layout import by_their_names
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
"""Tasks that are read at once: of their scores, only masks stay in memory."""


@numerics.with_fixed_flags
def import_torch(path: Path, output: Path, **settings: Any) -> Path:
    """Makes a run of a file of the original, or of `export_torch`: `supsup_jax.restore` opens it.

    Nothing that is pickled in the file is executed. The network is found from its tensors, all else from the arguments
    that the original saved with them, where it saved any.

    Args:
        path: the original's `final.pt`, or a state dictionary alone.
        output: a new folder for the run.
        settings: fields of `supsup_jax.experiment.Experiment` in place of what the file says: `benchmark`, `seed` and,
            for ResNets, `er_scale` where it does not; `num_tasks`, to import the first few, needed where tasks were
            discovered; `method="UpperBound"` for networks of their own whatever the method.

    Returns:
        The folder.

    Raises:
        UserError: if the file cannot be used, or does not fit the settings, or the folder holds a run already.
    """
    path = Path(path).expanduser()
    settings = checked(settings, Path("import_torch"))
    file = read(path)
    with _understood(path):
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
def _understood(path: Path) -> Iterator[None]:
    """Turns what arguments of another form than the original's lead to into an error that names the file."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} has arguments that the original has not ({reason(error)}); give a file of its state_dict alone"
        ) from error


def _learn(run: Run, file: File, leaves: list[Leaf], fresh: Any, numbers: list[int]) -> None:
    """Gives a run that has learned nothing the weights and the tasks of a file."""
    assert isinstance(run.tasks, LearnedTasks)
    settings = composition.settings_of(run.experiment)
    structure, method = jax.tree.structure(run.weights), settings["method"]
    weights = [_shared(file, leaf) for leaf in leaves]
    run.weights = structure.unflatten(leaf.turned(weight) for leaf, weight in zip(leaves, weights, strict=True))
    named = by_their_names(fresh, settings["network"])
    total = [np.zeros(leaf.here, np.float32) for leaf in leaves]  # of scores, which Transfer goes on from
    hexes: list[str] = []
    adapter: Any = {}
    progress = Progress("importing", len(numbers), "tasks")
    for start in range(0, len(numbers), _AT_ONCE):
        chosen, rows, stats = numbers[start : start + _AT_ONCE], [], []
        for task in chosen:
            own = [_own(file, leaf, weight, task, method) for leaf, weight in zip(leaves, weights, strict=True)]
            adapter = {} if method == "LowerBound" else structure.unflatten(own)
            rows.append(adapter[run.net.head] if method == "SeparateHeads" else adapter)
            norms = (file.array(file.name(layer, name, task), like.shape) for layer, name, like in named)
            stats.append(jax.tree.structure(fresh).unflatten(norms))
            if method == "Transfer":
                scores = (file.array(file.name(leaf.layer, "scores", task)) for leaf in leaves)
                total = [sum_ + leaf.turned(own) for sum_, leaf, own in zip(total, leaves, scores, strict=True)]
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


def _shared(file: File, leaf: Leaf) -> np.ndarray:
    """The shared weights of a leaf, in the original's layout; gains of which tasks have masks are all 1."""
    return (
        np.ones(leaf.there, np.float32) if leaf.kind == "gain" else file.array(f"{leaf.layer}.{leaf.name}", leaf.there)
    )


def _own(file: File, leaf: Leaf, weight: np.ndarray, task: int, method: str) -> Any:
    """What a task keeps of a leaf, as its method here has it: a mask, vectors, or the effective weights."""

    def array(what: str, shape: tuple[int, ...] = leaf.there) -> np.ndarray:
        return file.array(file.name(leaf.layer, what, task), shape)

    if leaf.kind == "shared":
        # Beside what is kept of other leaves there is nothing.
        nothing = {"BatchE": {}, "HopSupSup": None}
        return nothing[method] if method in nothing else leaf.turned(weight)
    if leaf.kind == "gain":
        return (array("scores") >= 0).astype(np.float32)
    if leaf.kind == "own":
        return leaf.turned(array("scores"))
    outputs, inputs = leaf.there[:2]
    if leaf.kind == "contexts":
        return leaf.turned((weight[..., 0, 0] @ array("contexts", (inputs, inputs)))[..., None, None])
    if leaf.kind == "s":
        s, t = array("s", (outputs,)), array("t", (inputs,))
        return {"s": s, "t": t} if method == "BatchE" else leaf.turned(weight * np.outer(s, t)[..., None, None])
    mask = _mask(array("scores"), leaf.density)
    return leaf.turned(mask if method in ("SupSup", "Transfer") else weight * mask)


def _mask(scores: np.ndarray, density: float | None) -> np.ndarray:
    """The mask of scores in the original's layout: among equal ones those that come later there are kept."""
    if density is None:
        return scores >= 0
    kept = np.argsort(np.abs(scores), axis=None, kind="stable")[scores.size - masks.num_kept(scores.size, density) :]
    mask = np.zeros(scores.size, bool)
    mask[kept] = True
    return mask.reshape(scores.shape)


def _results(run: Run, file: File, numbers: list[int], hexes: list[str]) -> list[TaskResult]:
    """What the file says of how well its tasks were learned."""
    if measured := file.ours.get("tasks"):
        return [from_plain(TaskResult, result) for result in measured[: len(numbers)]]
    labels = (
        list(range(run.inputs.num_classes)) if composition.settings_of(run.experiment)["benchmark"] == "own" else None
    )

    def of(said: Any, number: int) -> float:
        if isinstance(said, list | tuple):
            said = said[number] if number < len(said) else None
        return float(said) if isinstance(said, int | float) else math.nan

    results = []
    for place, number in enumerate(numbers):
        accuracy, best = (of(said, number) for said in file.accuracies)
        task, mask = run.experiment.first_task + place, hexes[place] if hexes else None
        results.append(TaskResult(task, now(), None, accuracy, best, math.nan, mask, labels))
    return results
