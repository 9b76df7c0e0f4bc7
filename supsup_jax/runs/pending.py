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

    def check(self, task: int) -> None:
        """Checks that unfinished work is of this run.

        Args:
            task: the task that is learned next.

        Raises:
            UserError: if it cannot be read, or was saved by another run.
        """
        if self._checkpoints is not None:
            for saved in (self._unfinished(task), self._checkpoints.latest("evaluation")):
                if saved and saved.get("run"):  # older ones do not say it
                    self._check(saved["run"])

    def save_unfinished(self, unfinished: Unfinished) -> None:
        """Saves a task that is being learned, in place of what was saved of it before."""
        if self._checkpoints is not None:
            plain = {"task": unfinished.task, "done": unfinished.done, "measured": unfinished.measured}
            self._checkpoints.replace("unfinished", plain, unfinished.arrays)

    def restore_unfinished(self, task: int, template: Any) -> Unfinished | None:
        """A task as it was saved unfinished, if it was; see `check`.

        Raises:
            UserError: if it cannot be read.
        """
        if self._checkpoints is None or (saved := self._unfinished(task)) is None:
            return None
        arrays = self._checkpoints.latest_arrays("unfinished", saved, template)
        return Unfinished(task, saved["done"], arrays, saved["measured"])

    def forget_unfinished(self) -> None:
        """Removes what was saved of a task before it was learned."""
        if self._checkpoints is not None:
            self._checkpoints.forget("unfinished")

    def save_evaluation(self, result: EvaluationResult) -> None:
        """Saves an evaluation of which some tasks are done, in place of what was saved of it before."""
        if self._checkpoints is not None:
            self._checkpoints.replace("evaluation", {"evaluation": vars(result)}, {})

    def restore_evaluation(self, num_tasks: int) -> EvaluationResult:
        """The evaluation of a number of tasks as it was saved unfinished, or one of which nothing is done; see `check`.

        Raises:
            UserError: if it cannot be read.
        """
        saved = self._checkpoints.latest("evaluation") if self._checkpoints is not None else None
        if saved is None or saved["evaluation"]["num_tasks"] != num_tasks:
            return EvaluationResult.begin(num_tasks)
        return from_plain(EvaluationResult, saved["evaluation"])

    def forget_evaluation(self) -> None:
        """Removes what was saved of an evaluation before it was finished."""
        if self._checkpoints is not None:
            self._checkpoints.forget("evaluation")

    def note_unreadable(self, names: Sequence[str]) -> Path:
        """Adds images that cannot be read to `unreadable.txt`, and gives its path."""
        assert self._folder is not None
        return results.add_unreadable(self._folder, names)

    def _unfinished(self, task: int) -> dict[str, Any] | None:
        """What was saved of a task before it was learned, without its arrays, if it was."""
        saved = self._checkpoints.latest("unfinished") if self._checkpoints is not None else None
        return saved if saved and saved["task"] == task else None
