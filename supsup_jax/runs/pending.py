"""Work of a run that is not finished: a task that is being learned, and an evaluation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from supsup_jax.runs import results
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.records import EvaluationResult, from_plain
from supsup_jax.scenarios.work import Unfinished


class Pending:
    """Saves unfinished work beside a run's checkpoints, and restores it.

    Args:
        folder: the run's folder.
        checkpoints: its checkpoints; `None` for a run that is not saved, which keeps nothing.
        check: called with the metadata of the run that saved the work; raises `UserError` if that was another run.
    """

    def __init__(self, folder: Path | None, checkpoints: Checkpoints | None, check: Callable[[dict[str, Any]], None]):
        self._folder, self._checkpoints, self._check = folder, checkpoints, check

    def save_unfinished(self, unfinished: Unfinished) -> None:
        """Saves a task that is being learned, in place of what was saved of it before."""
        if self._checkpoints is not None:
            self._checkpoints.save_unfinished(unfinished)

    def restore_unfinished(self, task: int, template: Any) -> Unfinished | None:
        """A task as it was saved unfinished, if it was.

        Raises:
            UserError: if it cannot be read, or was saved by another run.
        """
        saved = self._checkpoints.restore_unfinished(task, template) if self._checkpoints is not None else None
        if saved is not None and saved.run is not None:  # older ones do not say it
            self._check(saved.run)
        return saved

    def forget_unfinished(self) -> None:
        """Removes what was saved of a task before it was learned."""
        if self._checkpoints is not None:
            self._checkpoints.forget_unfinished()

    def save_evaluation(self, result: EvaluationResult) -> None:
        """Saves an evaluation of which some tasks are done, in place of what was saved of it before."""
        if self._checkpoints is not None:
            self._checkpoints.save_evaluation(vars(result))

    def restore_evaluation(self, num_tasks: int) -> EvaluationResult:
        """The evaluation of a number of tasks as it was saved unfinished, or one of which nothing is done.

        Raises:
            UserError: if it cannot be read, or was saved by another run.
        """
        saved = self._checkpoints.restore_evaluation() if self._checkpoints is not None else None
        if saved is None or saved["evaluation"]["num_tasks"] != num_tasks:
            return EvaluationResult.begin(num_tasks)
        self._check(saved["run"])
        return from_plain(EvaluationResult, saved["evaluation"])

    def forget_evaluation(self) -> None:
        """Removes what was saved of an evaluation before it was finished."""
        if self._checkpoints is not None:
            self._checkpoints.forget_evaluation()

    def note_unreadable(self, names: Sequence[str]) -> Path:
        """Adds images that cannot be read to `unreadable.txt`, and gives its path."""
        assert self._folder is not None
        return results.add_unreadable(self._folder, names)
