"""The main loop: learns the tasks of an experiment in a folder, and evaluates them when the experiment says so."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from supsup_jax.classification import IMAGES_AT_ONCE
from supsup_jax.data import Dataset
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.metrics import discovery_metrics
from supsup_jax.networks import has_convolutions
from supsup_jax.runs import records, reuse
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.initial import start_in
from supsup_jax.runs.records import EvaluationResult
from supsup_jax.runs.run import Run
from supsup_jax.runs.task_store import NewTasks
from supsup_jax.scenarios.work import Listener, Parts, Report, Results, Snapshot, StreamResults, Work, silent
from supsup_jax.system import atomic, backend, devices, hosts, interruption, numerics
from supsup_jax.system.progress import Progress

# Minimum number of seconds between two saves of a partly finished evaluation.
_SAVE_AFTER = 20.0


@numerics.with_fixed_flags
def run_experiment(
    experiment: Experiment,
    dataset: Dataset,
    folder: Path,
    tasks_at_once: int | None = None,
    report: Listener = silent,
    accepted: Callable[[], None] = lambda: None,
    *,
    learned_in: Path | None = None,
) -> Run:
    """Run an experiment in a folder, or resume it if the folder contains a part of the same run.

    Args:
        experiment: the experiment.
        dataset: its data set.
        folder: folder of the run; it must exist.
        tasks_at_once: see `train`.
        report: see `train`.
        accepted: see `train`.
        learned_in: folder of a run whose tasks this run takes if it has none yet; see `runs.reuse`.

    Returns:
        The finished run.

    Raises:
        UserError: if the checkpoints in the folder cannot be read or belong to a different run, another process uses
            the folder, or a task diverges.
        KeyboardInterrupt: if a stop was requested.
    """
    with hosts.enter_on_first(atomic.locked(folder)):
        run = opened(experiment, dataset, folder)
        taken = reuse.learned_in(learned_in, run) if learned_in and not run.num_recorded else None
        train(run, dataset, tasks_at_once, report, accepted, taken)
    return run


def opened(experiment: Experiment, dataset: Dataset, folder: Path) -> Run:
    """Return the run in a folder, ready to resume; nothing is written.

    Args:
        experiment: the experiment.
        dataset: its data set.
        folder: folder of the run; may be empty.

    Raises:
        UserError: if the checkpoints or given weights cannot be read, or the checkpoints have other settings, other
            initial weights or more tasks.
    """
    with Checkpoints(folder) as checkpoints:
        run = Run(experiment, experiment.build(dataset).benchmark.inputs, start_in(checkpoints, experiment))
        run.read(checkpoints, resumes=True)
    _check_tasks(run)
    return run


@numerics.with_fixed_flags
def train(
    run: Run,
    dataset: Dataset,
    tasks_at_once: int | None = None,
    report: Listener = silent,
    accepted: Callable[[], None] = lambda: None,
    taken: NewTasks | None = None,
) -> None:
    """Learn the remaining tasks of a run, and evaluate them when its experiment says so.

    Args:
        run: the run; its folder receives checkpoints and tables.
        dataset: its data set.
        tasks_at_once: number of tasks to learn between two checkpoints; by default as many as fit in memory.
        report: called with reports of the progress.
        accepted: called on the first host after all checks, before the first task is learned.
        taken: tasks that a different run has learned, for a run without tasks.

    Raises:
        UserError: if a task diverges, or another process uses the folder.
        KeyboardInterrupt: if a stop was requested; raised between two chunks of tasks, or two parts of an evaluation.
    """
    with run.locked():
        work = work_of(run, dataset, tasks_at_once, report)
        run.pending.check(run.experiment.first_task + run.num_recorded)
        run.open_tables()
        hosts.broadcast(accepted)
        if taken is not None:
            run.add(taken)
            work = dataclasses.replace(work, num_learned=run.num_recorded)
            work.report(f"took {run.num_recorded} tasks from a different run", is_done=True)
        evaluate_if_due(run, work)
        stop_between_chunks(run)
        for results in run.experiment.scenario.learn(work):  # a generator: one chunk of tasks at a time
            run.add(results)  # checkpoint, record, tables
            report_accuracy(work, results)
            evaluate_if_due(run, work)
            stop_between_chunks(run)


def evaluate_if_due(run: Run, work: Work) -> None:
    """Run all evaluations that are due: their number of tasks has been reached, and they are not in the record."""
    done = {result.num_tasks for result in run.record.evaluations}
    for num_tasks in run.experiment.evaluations:
        if num_tasks > run.num_recorded or num_tasks in done:
            continue
        if not run.experiment.scenario.can_evaluate(run.method, num_tasks, run.num_recorded):
            work.report(
                f"skipped evaluation of {num_tasks} tasks: later tasks have changed what they share", is_done=True
            )
            continue
        stop_if_requested()
        work.report(f"evaluating {num_tasks} tasks")
        result = evaluate(run, work, num_tasks)
        run.add_evaluation(result)
        given = f"{num_tasks} tasks: accuracy {100 * np.mean(result.given):.2f} % with the task given"
        if result.inferred is None or result.picked is None:
            work.report(given, is_done=True)
        else:
            work.report(
                f"{num_tasks} tasks: accuracy {100 * np.mean(result.inferred):.2f} % with the task inferred, "
                f"which was correct in {100 * np.mean(result.picked):.2f} % of batches",
                is_done=True,
            )


def evaluate(run: Run, work: Work, num_tasks: int) -> EvaluationResult:
    """Evaluate the first tasks of a run by its scenario's protocol, resuming a saved evaluation if there is one.

    Raises:
        KeyboardInterrupt: if a stop was requested; the finished part is saved first.
    """
    tasks, masks = run.record.tasks[:num_tasks], None
    if run.method.recovers:
        like = run.method.init(numerics.key(0), run.weights)
        masks = records.masks_from_hex([task.mask or "" for task in tasks], like)
    stream = [result.slots for result in run.record.stream]
    snapshot = Snapshot(run.model_of(num_tasks, work.weights), stream, masks)
    backend.return_memory()  # an evaluation needs most memory
    result = run.pending.restore_evaluation(num_tasks)
    before, started = result.seconds, time.perf_counter()
    saved, done = started, len(result.given)
    progress = Progress("evaluating", num_tasks, "tasks", done, work.report)
    for part in run.experiment.scenario.evaluate(work, snapshot, num_tasks, done):
        now = time.perf_counter()
        result = result.extend(before + now - started, *part)
        progress.add(len(part.accuracies.given))
        if len(result.given) == num_tasks:
            break
        stop_requested = hosts.any_process(interruption.is_requested())
        if stop_requested or now - saved > _SAVE_AFTER:
            run.pending.save_evaluation(result)
            saved = now
        if stop_requested:
            raise interruption.kind()
    return dataclasses.replace(
        result,
        training_seconds=sum(task.seconds for task in tasks),
        storage=records.account(snapshot.model, run.has_given_weights),
        discovery=discovery_metrics(stream)._asdict() if stream else None,
    )


def stop_between_chunks(run: Run) -> None:
    """Stop a run if a stop was requested and tasks remain to be learned.

    Raises:
        KeyboardInterrupt: in this case.
    """
    if run.num_recorded < run.experiment.num_tasks:
        stop_if_requested()


def stop_if_requested() -> None:
    """Stop a run if a stop was requested.

    Raises:
        KeyboardInterrupt: if a stop was requested, on this host or another one.
    """
    if hosts.any_process(interruption.is_requested()):
        raise interruption.kind()


def work_of(run: Run, dataset: Dataset, tasks_at_once: int | None, listener: Listener) -> Work:
    """Return the tasks of a run with everything that learning them takes, on the devices."""
    experiment = run.experiment
    _check_tasks(run)
    parts = experiment.build(dataset)
    numbers = range(experiment.first_task, experiment.first_task + experiment.num_tasks)
    tasks = parts.benchmark.tasks(dataset, experiment.seed, numbers)
    shares = experiment.shares_batches  # if so, images are loaded task by task
    samples = (None, None) if shares else (dataset.train, dataset.test)
    weights, stats, train, test = devices.replicate((run.weights, run.fresh_stats, *samples))
    fitting = 1 if shares else _tasks_that_fit(run, parts, dataset)

    def report(message: str, steps_per_second: float = 0.0, tasks: int | None = None, is_done: bool = False) -> None:
        learned = run.num_recorded if tasks is None else tasks
        listener(Report(learned, experiment.num_tasks, steps_per_second, message, is_done))

    source: Any = experiment.tasks.source
    return Work(
        parts=parts,
        dataset=dataset,
        tasks=tasks,
        seed=experiment.seed,
        first_task=experiment.first_task,
        batch_size=experiment.training.batch_size,
        evaluations=experiment.evaluations,
        num_learned=run.num_recorded,
        weights=weights,
        stats=stats,
        train=train,
        test=test,
        tasks_at_once=min(tasks_at_once or fitting, experiment.num_tasks),
        carry=run.carry,
        state=run.state_of_learner,
        pending=run.pending,
        report=report,
        stop_if_requested=stop_if_requested,
        shares_batches=shares,
        cache_size=source.shorter_side if shares else 0,
    )


def _check_tasks(run: Run) -> None:
    """Check that the learned tasks of a run are the first tasks of its experiment.

    Raises:
        UserError: if they are not.
    """
    count, first = run.num_recorded, run.experiment.first_task
    if count > run.experiment.num_tasks:
        raise UserError(
            f"{run.folder} contains {count} tasks; give --num-tasks {count} or more, or start without --resume"
        )
    learned = count if run.experiment.scenario.discovers else run.num_tasks
    if [task.task for task in run.record.tasks] != list(range(first, first + learned)):
        raise UserError(
            f"{run.folder} contains {learned} learned tasks, but the record lists other tasks; restore the folder from "
            "a copy, or start without --resume"
        )


def report_accuracy(work: Work, results: Results | StreamResults) -> None:
    """Report the accuracy of newly learned tasks; for streams, `scenarios.stream` has already reported it."""
    if isinstance(results, Results):
        accuracy = np.asarray(results.learned.accuracy)[:, -1].mean()
        rate = work.parts.steps / results.seconds
        work.report(f"accuracy {100 * accuracy:.2f} % with the task given", rate, is_done=True)


def _tasks_that_fit(run: Run, parts: Parts, dataset: Dataset) -> int:
    # Per task: parameters, their gradient, two moments, effective weights and their gradient; rows of all batches;
    # activations of a validation batch.
    weights = backend.num_bytes(run.weights)
    rows = parts.steps * run.experiment.training.batch_size
    pixels = math.prod(dataset.image_shape)
    convolutions = has_convolutions(run.weights)
    return devices.tasks_at_once(6 * weights + 8 * rows + 16 * IMAGES_AT_ONCE * pixels, convolutions)
