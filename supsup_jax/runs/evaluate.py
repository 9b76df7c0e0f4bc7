"""How good a restored run is: the accuracy of its tasks, in batches over all of them."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import jax
import numpy as np
from jaxtyping import Float, Int

from supsup_jax import evaluation
from supsup_jax.arguments import convert, wrong_type
from supsup_jax.data import Benchmark, Dataset, HeldOut, OwnTasks, Samples
from supsup_jax.data.conventions import converted
from supsup_jax.data.own import labelled
from supsup_jax.data.tasks import Part
from supsup_jax.errors import UserError
from supsup_jax.evaluation import Evaluation, Protocol
from supsup_jax.metrics import usual_masks
from supsup_jax.model import Model
from supsup_jax.runs import results
from supsup_jax.runs.opening import restore
from supsup_jax.runs.records import masks_from_hex, matrices
from supsup_jax.runs.run import Run
from supsup_jax.scenarios import shared
from supsup_jax.scenarios.feeding import local_rows
from supsup_jax.system import atomic, numerics
from supsup_jax.system.progress import Progress

Own = Sequence[Any]
"""Images and labels of each of some tasks that `Run.learn` learned, as it takes them."""


@dataclass(frozen=True)
class RunEvaluation:
    """Accuracies of tasks, as fractions. As in the paper, an answer that is no class of the task is wrong.

    Attributes:
        tasks: their numbers.
        accuracy: `(tasks,)`; with tasks inferred that of the paper's protocol, one pick for a whole batch.
        accuracy_per_image: `(tasks,)`, with a task inferred for every single image, of the first `images_per_task`.
        picked: `(tasks,)`, the fraction of batches for which the right task was inferred.
        confusion: `(tasks, tasks learned)`, for how many batches which task was inferred.
        matrix: `(evaluations, tasks that came)`, the accuracies at every evaluation that the run has recorded, and
            now; not a number for tasks that were not learned by then, or are left out.
    """

    tasks: Int[np.ndarray, " tasks"]
    accuracy: Float[np.ndarray, " tasks"]
    accuracy_per_image: Float[np.ndarray, " tasks"] | None
    picked: Float[np.ndarray, " tasks"] | None
    confusion: Int[np.ndarray, "tasks entries"] | None
    matrix: Float[np.ndarray, "evaluations came"]

    def to_csv(self, path: str | Path) -> None:
        """Writes a row for each task."""
        columns = {"Task": self.tasks.tolist(), "Accuracy": _rounded(self.accuracy)}
        if self.accuracy_per_image is not None:
            columns["Accuracy Per Image"] = _rounded(self.accuracy_per_image)
        if self.picked is not None:
            columns["Task Inferred Right"] = _rounded(self.picked)
        atomic.write(Path(path).expanduser(), results.csv_text([columns, *zip(*columns.values(), strict=True)]))


@overload
def evaluate(run: Model, tasks: HeldOut, task: Protocol) -> Evaluation: ...
@overload
def evaluate(
    run: Run | str | os.PathLike[str], tasks: Any = None, task: str = "given", data: Any = None
) -> RunEvaluation: ...
@numerics.with_fixed_flags
def evaluate(run: Any, tasks: Any = None, task: Any = "given", data: Any = None) -> RunEvaluation | Evaluation:
    """Evaluates a run, or a model, over its tasks, side by side in parts of some seconds.

    `evaluate(model, benchmark.test(dataset, numbers), protocol)` evaluates a model: see `evaluation.evaluate`.

    Args:
        run: a restored run, or its folder.
        tasks: which, by their numbers, or the number of one; by default all of those for which there is data.
        task: whether the network is "given" the task, or it is "inferred" by the experiment's search and objective.
        data: the folder with the run's data set, by default the one that it was learned from; or the data set; or, for
            tasks that `Run.learn` learned, test images and labels of each, as a pair or a data set of PyTorch.

    Raises:
        UserError: if the data do not fit, or the run's tasks cannot be given or inferred.
    """
    if isinstance(run, Model):
        if not isinstance(tasks, HeldOut):
            raise wrong_type("tasks", tasks, "benchmark.test(dataset, numbers), since run is a Model")
        if not isinstance(task, Protocol):
            raise wrong_type("task", task, "a Protocol, since run is a Model")
        return evaluation.evaluate(run, tasks, task)
    if isinstance(run, str | os.PathLike):
        run = restore(run)
    if not isinstance(run, Run):
        raise wrong_type("run", run, "a run, its folder, or a Model")
    tasks = None if tasks is None else convert("tasks", tasks, tuple[int, ...])
    if task not in ("given", "inferred"):
        raise UserError(f"task {task!r}; give 'given' or 'inferred'")
    if data is not None and not isinstance(data, str | os.PathLike | Dataset):
        is_pair = isinstance(data, tuple) and len(data) == 2 and hasattr(data[0], "shape")
        return _own(run, tasks, task, data if isinstance(data, Sequence) and not is_pair else [data])
    from_script = [place for place in range(_num_tasks(run)) if _names(run, place) is None]
    chosen = _chosen(run, tasks, from_script, "its data set")
    dataset = converted(data, "data") if isinstance(data, Dataset) else load_dataset(run, data)
    parts = run.experiment.build(dataset)
    numbers = run.experiment.first_task + chosen
    described = parts.benchmark.tasks(dataset, run.experiment.seed, numbers.tolist())
    if run.experiment.shares_batches:
        if task == "inferred":
            raise UserError("tasks of SplitImageNet are always given; give task='given'")
        return _result(run, chosen, task, Evaluation(_from_disk(run, chosen, parts.benchmark, dataset, described)))
    test = HeldOut(parts.benchmark, dataset.test, described, chosen, run.experiment.seed)
    return (_recovered if run.method.recovers else _measured)(run, chosen, task, test, parts.protocol)


def _own(run: Run, tasks: Sequence[int] | None, task: str, pairs: Own) -> RunEvaluation:
    """Evaluates tasks that `Run.learn` learned."""
    own = [place for place in range(run.num_tasks) if _names(run, place) is not None]
    chosen = _chosen(run, tasks, own, "images and labels")
    if len(pairs) != len(chosen):
        raise UserError(f"there are data of {len(pairs)} tasks for {len(chosen)}; give images and labels of each")
    if run.method.recovers:
        raise UserError(f"{type(run.method).__name__} recovers masks for whole benchmarks only")
    splits = [
        labelled(run.inputs, pair, _names(run, place) or []) for place, pair in zip(chosen.tolist(), pairs, strict=True)
    ]
    images, labels = (np.concatenate(leaves) for leaves in zip(*splits, strict=True))
    sizes = np.array([len(split.labels) for split in splits], np.int32)
    described = Part(np.cumsum(sizes, dtype=np.int32) - sizes, sizes)
    benchmark = OwnTasks(0, int(sizes.max()), run.inputs.num_classes, *run.inputs[:3])
    protocol = run.experiment.scenario.protocol(run.inputs.num_classes, int(sizes.max()))
    test = HeldOut(benchmark, Samples(images, labels), described, chosen, run.experiment.seed)
    return _measured(run, chosen, task, test, protocol)


def _measured(run: Run, chosen: np.ndarray, task: str, test: HeldOut, protocol: Protocol) -> RunEvaluation:
    """Evaluates tasks of which the samples lie in memory."""
    entries = usual_masks([result.slots for result in run.record.stream])[chosen] if run.record.stream else chosen
    infer = None if task == "given" else run.inference()
    protocol = dataclasses.replace(protocol, infer=infer)
    measured = evaluation.evaluate(run.model, test, protocol, entries=entries)
    return _result(run, chosen, task, measured)


def _recovered(run: Run, chosen: np.ndarray, task: str, test: HeldOut, protocol: Protocol) -> RunEvaluation:
    """Evaluates tasks whose masks are recovered from a memory; with the task given, with the masks noted to measure."""
    if chosen.tolist() != [*range(run.num_tasks)]:
        raise UserError(f"{type(run.method).__name__} is evaluated over all tasks, in order; leave tasks out")
    like = run.method.init(numerics.key(0), run.weights)
    truth = masks_from_hex([result.mask or "" for result in run.record.tasks], like)
    progress = Progress("evaluating", run.num_tasks, "tasks")
    parts = evaluation.evaluate_recovery(run.model, test, protocol, truth=truth)
    measured = evaluation.joined(part for part, _ in progress.of(parts, lambda part: len(part[1])))
    return _result(run, chosen, task, measured)


def _from_disk(run: Run, chosen: np.ndarray, benchmark: Benchmark, dataset: Dataset, described: Any) -> np.ndarray:
    """The accuracies of tasks whose images are decoded task by task; those that cannot be read count for nothing."""
    measure, accuracies = shared.measure(run.net, benchmark), []
    progress = Progress("evaluating", len(chosen), "tasks")
    source: Any = run.experiment.tasks.source
    for row, place in progress.of(enumerate(chosen.tolist())):
        one = jax.tree.map(lambda leaf, row=row: leaf[row], described)
        test, share, _ = shared.test_of(
            benchmark, dataset, one, run.experiment.scenario.test_batch_size, source.shorter_side
        )
        accuracies.append(measure(share, run.weights_for(place), run.stats_for(place), test, local_rows(one)))
    return np.array(accuracies)


def _result(run: Run, chosen: np.ndarray, task: str, measured: Evaluation) -> RunEvaluation:
    inferred = task == "inferred"
    accuracy = np.asarray(measured.inferred if inferred else measured.given, np.float64)
    rows = matrices(run.record).get(task, {})
    count = _num_tasks(run)
    matrix = np.full((len(rows) + 1, count), np.nan)
    for row, accuracies in zip(matrix, rows.values(), strict=False):
        row[: len(accuracies)] = accuracies
    matrix[-1, chosen] = accuracy
    if not inferred:
        return RunEvaluation(chosen, accuracy, None, None, None, matrix)
    more = measured.inferred_per_image, measured.picked, measured.confusion
    return RunEvaluation(chosen, accuracy, *more, matrix)


def load_dataset(run: Run, folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads the data set of a run's experiment.

    Args:
        run: a run.
        folder: the folder with the data set; by default the one that it was learned from.

    Raises:
        UserError: if the folder is not known, or does not have the data set.
    """
    source = run.experiment.tasks.source
    if folder is None and source.needs_folder:
        options = results.read_settings(run.folder).get("options") if run.folder else None
        folder = (options or {}).get("data")
        if folder is None:
            raise UserError(f"say where {source.name} is: data=FOLDER, or --data FOLDER")
    return run.experiment.tasks.load(folder or ".")


def _num_tasks(run: Run) -> int:
    """Tasks that came; where they were discovered there may be fewer masks."""
    return len(run.record.stream) or run.num_tasks


def _names(run: Run, place: int) -> list[Any] | None:
    """What the classes of a task are called, where it is one's own."""
    return None if run.record.stream else run.record.tasks[place].labels


def _chosen(run: Run, tasks: Sequence[int] | None, possible: list[int], data: str) -> np.ndarray:
    """The numbers of the tasks to evaluate."""
    chosen = possible if tasks is None else list(tasks)
    for number in chosen:
        if number not in possible:
            have = f"0 to {_num_tasks(run) - 1}" if len(possible) == _num_tasks(run) else str(possible)
            raise UserError(f"task {number} cannot be evaluated with {data}; it is for {have}")
    if not chosen:
        others = "data=[(images, labels), ...]" if data == "its data set" else "the folder of its data set"
        raise UserError(f"this run has no tasks to evaluate with {data}; give {others}")
    return np.array(chosen, np.int64)


def _rounded(values: np.ndarray) -> list[str]:
    return [f"{value:.4f}" for value in values]
