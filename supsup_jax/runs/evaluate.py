"""Evaluation of a restored run: accuracies of its tasks."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import jax
import numpy as np
from jaxtyping import Float, Int

from supsup_jax import arguments, evaluation
from supsup_jax.arguments import convert, integer, shown, wrong_type
from supsup_jax.data import Benchmark, Dataset, HeldOut, OwnTasks, Samples
from supsup_jax.data.conventions import converted
from supsup_jax.data.tasks import Part
from supsup_jax.data.user_tasks import labelled
from supsup_jax.errors import ArgumentError, UserError
from supsup_jax.evaluation import Evaluation, Protocol
from supsup_jax.inference import Objective, Search
from supsup_jax.metrics import usual_masks
from supsup_jax.model import Model
from supsup_jax.recovery_evaluation import evaluate_recovery
from supsup_jax.runs import results
from supsup_jax.runs.opening import restore
from supsup_jax.runs.records import masks_from_hex, matrices, sample_in_words
from supsup_jax.runs.run import Run
from supsup_jax.scenarios import shared
from supsup_jax.scenarios.feeding import local_rows
from supsup_jax.system import atomic, numerics
from supsup_jax.system.progress import Progress

UserData = Sequence[Any]
"""Images and labels of some tasks that `Run.learn` learned, in the forms that it accepts."""


@dataclass(frozen=True)
class RunEvaluation:
    """Accuracies of tasks, as fractions.

    As in the paper, all outputs compete: an answer that does not represent a class of the task is wrong.

    Attributes:
        tasks: task numbers.
        accuracy: `(tasks,)`; with the task inferred once per batch, as in the paper, if it is inferred.
        accuracy_per_image: `(tasks,)`, with the task inferred for each of the first `images_per_task` images alone;
            `None` if tasks are given.
        picked: `(tasks,)`, fraction of batches whose task was inferred correctly; `None` if tasks are given.
        confusion: `(tasks, learned tasks)`, number of batches by task and inferred task; `None` if tasks are given.
        matrix: `(evaluations, all tasks)`, accuracies at each recorded evaluation, and, in the last row, now; NaN for
            tasks that were not learned at that time or are not evaluated.
        sampled: `(tasks,)`, fraction of the batches whose task was inferred; `None` if it was for all of them.
        accuracy_error: `(tasks,)`, standard error of `accuracy` if only a sample was evaluated.
        accuracy_per_image_error: `(tasks,)`, standard error of `accuracy_per_image` if only a sample was evaluated.
        checked: `(tasks,)`, number of picks that were compared with those of the exact search, if the search is a
            shortlist.
        differing: `(tasks,)`, how many of these differ.
    """

    tasks: Int[np.ndarray, " tasks"]
    accuracy: Float[np.ndarray, " tasks"]
    accuracy_per_image: Float[np.ndarray, " tasks"] | None
    picked: Float[np.ndarray, " tasks"] | None
    confusion: Int[np.ndarray, "tasks entries"] | None
    matrix: Float[np.ndarray, "evaluations all_tasks"]
    sampled: Float[np.ndarray, " tasks"] | None = None
    accuracy_error: Float[np.ndarray, " tasks"] | None = None
    accuracy_per_image_error: Float[np.ndarray, " tasks"] | None = None
    checked: Int[np.ndarray, " tasks"] | None = None
    differing: Int[np.ndarray, " tasks"] | None = None

    @property
    def sample(self) -> str | None:
        """Which share of the test picks was evaluated, in words; `None` if all were."""
        return sample_in_words(self.sampled)

    def to_csv(self, path: str | Path) -> None:
        """Write a CSV file with one row per task."""
        columns = {"Task": self.tasks.tolist(), "Accuracy": _rounded(self.accuracy)}
        if self.accuracy_per_image is not None:
            columns["Accuracy Per Image"] = _rounded(self.accuracy_per_image)
        if self.picked is not None:
            columns["Task Inferred Right"] = _rounded(self.picked)
        if self.accuracy_error is not None and self.accuracy_per_image_error is not None:
            columns["Accuracy Standard Error"] = _rounded(self.accuracy_error)
            columns["Accuracy Per Image Standard Error"] = _rounded(self.accuracy_per_image_error)
        if self.checked is not None and self.differing is not None:
            columns["Checked Picks"] = [f"{number:.0f}" for number in self.checked]
            columns["Picks That Differ From Exact Search"] = [f"{number:.0f}" for number in self.differing]
        atomic.write(Path(path).expanduser(), results.csv_text([columns, *zip(*columns.values(), strict=True)]))


@overload
def evaluate(run: Model, tasks: HeldOut, task: Protocol) -> Evaluation: ...
@overload
def evaluate(
    run: Run | str | os.PathLike[str],
    tasks: Any = None,
    task: str = "given",
    data: Any = None,
    *,
    search: Search | str | None = None,
    objective: Objective | str | None = None,
    images_per_pick: int | None = None,
    eval_sample: float | None = None,
) -> RunEvaluation: ...
@numerics.with_fixed_flags
def evaluate(
    run: Any, tasks: Any = None, task: Any = "given", data: Any = None, **inference: Any
) -> RunEvaluation | Evaluation:
    """Evaluate the tasks of a run or a model in parts that take a few seconds each.

    To evaluate a model, call `evaluate(model, benchmark.test(dataset, numbers), protocol)`; see `evaluation.evaluate`.

    Args:
        run: a restored run, or its folder.
        tasks: numbers of the tasks, or one number; by default all tasks for which there is data.
        task: "given" to give the task to the network, or "inferred" to infer it with the experiment's search and
            objective.
        data: folder with the data set, by default the one that the run was trained on; or the data set; or, for tasks
            learned by `Run.learn`, test images and labels of each task, as a pair or a PyTorch data set.
        inference: for inferred tasks, `search`, `objective`, `images_per_pick` and `eval_sample` replace those of the
            experiment. The first two are objects, or their names. The last is the fraction of the picks to make, a
            random sample whose accuracies have standard errors.

    Returns:
        The accuracies.

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
        raise wrong_type("run", run, "a Run, its folder, or a Model")
    tasks = None if tasks is None else convert("tasks", tasks, tuple[int, ...])
    if task not in ("given", "inferred"):
        raise UserError(f"task {task!r} is unknown; give 'given' or 'inferred'")
    _check_inference(run, task, inference)
    if data is not None and not isinstance(data, str | os.PathLike | Dataset):
        is_pair = isinstance(data, tuple) and len(data) == 2 and hasattr(data[0], "shape")
        pairs = data if isinstance(data, Sequence) and not is_pair else [data]
        return _evaluate_user_tasks(run, tasks, task, pairs, inference)
    from_script = [index for index in range(_num_tasks(run)) if _class_labels(run, index) is None]
    chosen = _task_numbers(run, tasks, from_script, "its data set")
    dataset = converted(data, "data") if isinstance(data, Dataset) else load_dataset(run, data)
    parts = run.experiment.build(dataset)
    numbers = run.experiment.first_task + chosen
    described = parts.benchmark.tasks(dataset, run.experiment.seed, numbers.tolist())
    if run.experiment.shares_batches:
        if task == "inferred":
            raise UserError("task 'inferred': tasks of SplitImageNet cannot be inferred; give task='given'")
        return _result(
            run, chosen, task, Evaluation(_accuracies_from_disk(run, chosen, parts.benchmark, dataset, described))
        )
    test = HeldOut(parts.benchmark, dataset.test, described, chosen, run.experiment.seed)
    if run.method.recovers:
        return _evaluate_recovery(run, chosen, task, test, parts.protocol)
    return _evaluate_in_memory(run, chosen, task, test, parts.protocol, inference)


def _check_inference(run: Run, task: str, inference: Mapping[str, Any]) -> None:
    """Check the arguments of `evaluate` about the inference of tasks.

    Raises:
        UserError: if tasks are given or recovered, or there is no such argument.
    """
    if unknown := sorted(inference.keys() - {"search", "objective", "images_per_pick", "eval_sample"}):
        raise TypeError(f"evaluate() got an unexpected keyword argument '{unknown[0]}'")
    for name, value in inference.items():
        if value is not None and (task == "given" or run.method.recovers):
            problem = "HopSupSup recovers masks instead" if run.method.recovers else "set task to inferred"
            raise ArgumentError(name, shown(value), f"applies to tasks that a search infers; {problem}")


def _evaluate_user_tasks(
    run: Run, tasks: Sequence[int] | None, task: str, pairs: UserData, inference: Mapping[str, Any]
) -> RunEvaluation:
    """Evaluate tasks learned by `Run.learn`."""
    from_python = [index for index in range(run.num_tasks) if _class_labels(run, index) is not None]
    chosen = _task_numbers(run, tasks, from_python, "images and labels")
    if len(pairs) != len(chosen):
        raise UserError(f"data has {len(pairs)} pairs for {len(chosen)} tasks; give images and labels of each task")
    if run.method.recovers:
        name = type(run.method).__name__
        raise UserError(f"{name} can only evaluate tasks of a benchmark; leave data out, or give its folder")
    splits = [
        labelled(run.inputs, pair, _class_labels(run, index) or [])
        for index, pair in zip(chosen.tolist(), pairs, strict=True)
    ]
    images, labels = (np.concatenate(leaves) for leaves in zip(*splits, strict=True))
    sizes = np.array([len(split.labels) for split in splits], np.int32)
    described = Part(np.cumsum(sizes, dtype=np.int32) - sizes, sizes)
    benchmark = OwnTasks(0, int(sizes.max()), run.inputs.num_classes, *run.inputs[:3])
    protocol = run.experiment.scenario.protocol(run.inputs.num_classes, int(sizes.max()))
    test = HeldOut(benchmark, Samples(images, labels), described, chosen, run.experiment.seed)
    return _evaluate_in_memory(run, chosen, task, test, protocol, inference)


def _evaluate_in_memory(
    run: Run, chosen: np.ndarray, task: str, test: HeldOut, protocol: Protocol, inference: Mapping[str, Any]
) -> RunEvaluation:
    """Evaluate tasks whose samples are in memory."""
    entries = usual_masks([result.slots for result in run.record.stream])[chosen] if run.record.stream else chosen
    infer = None if task == "given" else run.inference(inference.get("search"), inference.get("objective"))
    per_pick = inference.get("images_per_pick")
    per_pick = protocol.images_per_pick if per_pick is None else integer("images_per_pick", per_pick)
    if not 1 <= per_pick <= protocol.batch_size:
        problem = f"must be from 1 to {protocol.batch_size}, the number of images per test batch"
        raise ArgumentError("images_per_pick", per_pick, problem)
    sample = inference.get("eval_sample")
    sample = protocol.sample if sample is None else arguments.number("eval_sample", sample)
    if not 0 < sample <= 1:
        raise ArgumentError("eval_sample", sample, "must be above 0 and at most 1, which evaluates everything")
    protocol = dataclasses.replace(protocol, infer=infer, images_per_pick=per_pick, sample=sample)
    measured = evaluation.evaluate(run.model, test, protocol, entries=entries)
    return _result(run, chosen, task, measured)


def _evaluate_recovery(run: Run, chosen: np.ndarray, task: str, test: HeldOut, protocol: Protocol) -> RunEvaluation:
    """Evaluate tasks whose masks are recovered from a memory; if tasks are given, use their true masks."""
    if chosen.tolist() != [*range(run.num_tasks)]:
        raise UserError(f"{type(run.method).__name__} can only evaluate all tasks, in order; leave tasks out")
    like = run.method.init(numerics.key(0), run.weights)
    truth = masks_from_hex([result.mask or "" for result in run.record.tasks], like)
    progress = Progress("evaluating", run.num_tasks, "tasks")
    parts = evaluate_recovery(run.model, test, protocol, truth=truth)
    measured = evaluation.concatenate(part for part, _ in progress.track(parts, lambda part: len(part[1])))
    return _result(run, chosen, task, measured)


def _accuracies_from_disk(
    run: Run, chosen: np.ndarray, benchmark: Benchmark, dataset: Dataset, described: Any
) -> np.ndarray:
    """Return the accuracies of tasks whose images are decoded task by task; unreadable images are left out."""
    measure, accuracies = shared.measure(run.net, benchmark), []
    progress = Progress("evaluating", len(chosen), "tasks")
    source: Any = run.experiment.tasks.source
    for row, index in progress.track(enumerate(chosen.tolist())):
        description = jax.tree.map(lambda leaf, row=row: leaf[row], described)
        test, share, _ = shared.test_of(
            benchmark, dataset, description, run.experiment.scenario.test_batch_size, source.shorter_side
        )
        rows = local_rows(description)
        accuracies.append(measure(share, run.weights_for(index), run.stats_for(index), test, rows))
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
    sampled = measured.sampled, measured.inferred_error, measured.inferred_per_image_error
    whole = measured.inferred_per_image, measured.picked, measured.confusion, matrix
    return RunEvaluation(chosen, accuracy, *whole, *sampled, measured.checked, measured.differing)


def load_dataset(run: Run, folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Load the data set of a run's experiment.

    Args:
        run: the run.
        folder: folder with the data set; by default the one that the run was trained on.

    Raises:
        UserError: if the folder is unknown, or does not contain the data set.
    """
    source = run.experiment.tasks.source
    if folder is None and source.needs_folder:
        options = results.read_settings(run.folder).get("options") if run.folder else None
        folder = (options or {}).get("data")
        if folder is None:
            raise UserError(f"the folder of {source.name} is not known; give data=FOLDER, or --data FOLDER")
    return run.experiment.tasks.load(folder or ".")


def _num_tasks(run: Run) -> int:
    """Return the number of tasks; if tasks were discovered, there may be fewer masks."""
    return len(run.record.stream) or run.num_tasks


def _class_labels(run: Run, index: int) -> list[Any] | None:
    """Return the class labels of a user-supplied task; `None` for tasks of a benchmark."""
    return None if run.record.stream else run.record.tasks[index].labels


def _task_numbers(run: Run, tasks: Sequence[int] | None, possible: list[int], data: str) -> np.ndarray:
    """Return the numbers of the tasks to evaluate."""
    chosen = possible if tasks is None else list(tasks)
    for number in chosen:
        if number not in possible:
            valid = f"0 to {_num_tasks(run) - 1}" if len(possible) == _num_tasks(run) else str(possible)
            raise UserError(f"task {number} cannot be evaluated with {data}; give tasks from {valid}")
    if not chosen:
        needed = (
            "data=[(images, labels), ...] to ss.evaluate in Python"
            if data == "its data set"
            else "the folder of its data set"
        )
        raise UserError(f"this run has no tasks to evaluate with {data}; give {needed}")
    return np.array(chosen, np.int64)


def _rounded(values: np.ndarray) -> list[str]:
    return [f"{value:.4f}" for value in values]
