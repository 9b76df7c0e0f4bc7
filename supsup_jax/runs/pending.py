"""Partial work of a run: a partly learned task, and a partly finished evaluation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from supsup_jax.runs import results
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.records import EvaluationResult, from_plain
from supsup_jax.scenarios.work import Unfinished


class Pending:
    """Saves partial work beside the checkpoints of a run, and restores it.

    Args:
        folder: folder of the run.
        checkpoints: checkpoints of the run; `None` if the run is not saved, and partial work is discarded.
        check: called with the description of the run that saved the work; raises `UserError` if it is a different run.
    """

    def __init__(self, folder: Path | None, checkpoints: Checkpoints | None, check: Callable[[dict[str, Any]], None]):
        self._folder, self._checkpoints, self._check = folder, checkpoints, check

    def check(self, task: int) -> None:
        """Check that partial work was saved by this run.

        Args:
            task: number of the next task to learn.

        Raises:
            UserError: if the work cannot be read, or was saved by a different run.
        """
        if self._checkpoints is not None:
            for saved in (self._unfinished(task), self._checkpoints.latest("evaluation")):
                if saved and saved.get("run"):  # old versions did not store it
                    self._check(saved["run"])

    def save_unfinished(self, unfinished: Unfinished) -> None:
        """Save a partly learned task in place of its previous state."""
        if self._checkpoints is not None:
            plain = {"task": unfinished.task, "done": unfinished.done, "measured": unfinished.measured}
            self._checkpoints.replace("unfinished", plain, unfinished.arrays)

    def restore_unfinished(self, task: int, template: Any) -> Unfinished | None:
        """Return the saved state of a partly learned task, or `None`; call `check` before.

        Raises:
            UserError: if the state cannot be read.
        """
        if self._checkpoints is None or (saved := self._unfinished(task)) is None:
            return None
        arrays = self._checkpoints.latest_arrays("unfinished", saved, template)
        return Unfinished(task, saved["done"], arrays, saved["measured"])

    def forget_unfinished(self) -> None:
        """Delete the saved state of a partly learned task."""
        if self._checkpoints is not None:
            self._checkpoints.forget("unfinished")

    def save_evaluation(self, result: EvaluationResult) -> None:
        """Save a partly finished evaluation in place of its previous state."""
        if self._checkpoints is not None:
            self._checkpoints.replace("evaluation", {"evaluation": vars(result)}, {})

    def restore_evaluation(self, num_tasks: int) -> EvaluationResult:
        """Return the saved evaluation of this number of tasks, or an empty one; call `check` before.

        Raises:
            UserError: if the evaluation cannot be read.
        """
        saved = self._checkpoints.latest("evaluation") if self._checkpoints is not None else None
        if saved is None or saved["evaluation"]["num_tasks"] != num_tasks:
            return EvaluationResult.begin(num_tasks)
        return from_plain(EvaluationResult, saved["evaluation"])

    def forget_evaluation(self) -> None:
        """Delete the saved evaluation."""
        if self._checkpoints is not None:
            self._checkpoints.forget("evaluation")

    def note_unreadable(self, names: Sequence[str]) -> Path:
        """Add the names of unreadable images to `unreadable.txt`, and return its path."""
        assert self._folder is not None
        return results.add_unreadable(self._folder, names)

    def _unfinished(self, task: int) -> dict[str, Any] | None:
        """Return the saved state of a partly learned task without its arrays, or `None`."""
        saved = self._checkpoints.latest("unfinished") if self._checkpoints is not None else None
        return saved if saved and saved["task"] == task else None
