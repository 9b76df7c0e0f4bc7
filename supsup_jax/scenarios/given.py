"""Scenarios GG, GNu and GNs: the learner is told where a task ends."""

import time
from functools import cached_property
from itertools import takewhile
from typing import Any

import jax
import numpy as np

from supsup_jax import evaluation
from supsup_jax.errors import UserError
from supsup_jax.methods import Bank, Carry
from supsup_jax.networks import Stats, Weights, has_convolutions
from supsup_jax.runs import records
from supsup_jax.runs.checkpoints import Chunk
from supsup_jax.runs.learned import LearnedTasks
from supsup_jax.runs.records import Record, TaskResult
from supsup_jax.scenarios import programs
from supsup_jax.scenarios.loop import Loop
from supsup_jax.system import interruption
from supsup_jax.training import Learned, not_finite, task_key


class GivenTasks(Loop):
    """Learns tasks side by side, or in turn where they train the shared weights."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        kept, first = self._learned.num_tasks, self.experiment.first_task
        if [task.task for task in self.record.tasks] != list(range(first, first + kept)):
            raise UserError(
                f"{self.folder} holds masks of {kept} tasks, but results of others; restore it from a copy, "
                "or start without --resume"
            )

    @cached_property
    def _learned(self) -> LearnedTasks:
        return LearnedTasks(self.parts.method, self.weights, self.fresh_stats)

    def _take_in(self, chunk: Chunk, news: Record, restored: bool) -> None:
        self._learned.add(chunk)

    def _take_in_state(self, state: dict[str, Any]) -> None:
        super()._take_in_state(state)
        self._learned.replace(state)

    def _bank_and_stats(self) -> tuple[Bank, Stats]:
        return self._learned.together()

    def _unchanged_since(self, num_tasks: int) -> bool:
        method, later = self.parts.method, range(num_tasks, self._num_learned)
        return not later or (method.bank_grows and not any(method.trains_weights(task) for task in later))

    def _shapes(self, num_tasks: int) -> tuple[Any, Any]:
        return self._learned.shapes(num_tasks)

    def _state_shapes(self) -> dict[str, Any]:
        return self._learned.state_shapes()

    def _next_tasks(self) -> np.ndarray:
        """The tasks to learn before the next checkpoint: as many as may be, and all of them alike.

        Where they change what earlier ones are evaluated with, they end where that is due.
        """
        method, first = self.parts.method, self._num_learned
        stop = min(first + self.tasks_at_once, self.experiment.num_tasks)
        if method.trains_weights(first) or not method.bank_grows:
            stop = min(stop, self._next_evaluation)

        def how(task: int) -> tuple[bool, bool]:
            return method.in_turn(task), method.trains_weights(task)

        return np.array([*takewhile(lambda task: how(task) == how(first), range(first, stop))])

    def _learn_chunk(self) -> None:
        experiment, method = self.experiment, self.parts.method
        places = self._next_tasks()
        numbers = experiment.first_task + places
        first = int(numbers[0])
        self.report(f"learning tasks {first} to {numbers[-1]}" if len(numbers) > 1 else f"learning task {first}")
        started = time.perf_counter()
        keys = jax.vmap(lambda task: task_key(experiment.seed, task))(numbers)
        tasks = jax.tree.map(lambda leaf: leaf[places], self.tasks), keys
        state = {}
        if method.in_turn(first):
            learned, state = self._learn_in_turn(tasks, len(numbers), method.trains_weights(first))
        else:
            convolutions = has_convolutions(self.weights)
            train = programs.side_by_side(self.parts, experiment.training.batch_size, convolutions)
            shared = *self.on_devices, self._started_from()
            learned = jax.block_until_ready(train(shared, tasks, self.tasks_at_once))
        self._save_learned(learned, state, time.perf_counter() - started)

    def _save_learned(self, learned: Learned, state: dict[str, Any], seconds: float) -> None:
        """Saves the next tasks, now that they are learned: those before the first that has diverged.

        Args:
            learned: what came of them, stacked along a leading task axis.
            state: what they have replaced.
            seconds: how long it took.

        Raises:
            UserError: if one has diverged.
        """
        came = len(learned.diverged)
        diverged = np.flatnonzero(learned.diverged < self.parts.steps)
        count = int(diverged[0]) if diverged.size else came
        if count:
            self._save_sound(jax.tree.map(lambda leaf: leaf[:count], learned), state, seconds / came)
        if count < came:
            number, step = self.experiment.first_task + self._num_learned, int(learned.diverged[count])
            raise programs.divergence(self.parts, number, step, not_finite(learned.loss[count]))

    def _save_sound(self, learned: Learned, state: dict[str, Any], seconds: float) -> None:
        """Saves the next tasks, given how long each of them took."""
        count = len(learned.loss)
        chunk, replaced = self._learned.chunk(learned.adapter, learned.stats, count)
        masks = records.masks_as_hex(learned.adapter) if self.parts.method.recovers else [None] * count
        loss, accuracy = jax.device_get((learned.loss, learned.accuracy))
        results = [
            TaskResult(
                task=self.experiment.first_task + self._num_learned + row,
                finished=records.now(),
                loss=float(loss[row, -1]),
                accuracy=float(accuracy[row, -1]),
                best=float(accuracy[row].max()),
                seconds=seconds,
                mask=masks[row],
            )
            for row in range(count)
        ]
        self._save(chunk, Record(tasks=results), state | replaced or None)
        message = f"accuracy {100 * accuracy[:, -1].mean():.2f} % with the task given"
        self.report(message, self.parts.steps / seconds, is_done=True)

    def _started_from(self) -> Carry:
        """What the next task starts from."""
        return self._learned.started_from(self.weights)

    def _learn_in_turn(self, tasks: Any, count: int, trains_weights: bool) -> tuple[Learned, dict[str, Any]]:
        """Learns tasks of which each starts with what the one before has left; with what the last one leaves.

        The first that diverges leaves nothing, and is the last; so is one during which an end was asked for.
        """
        train = programs.alone(self.parts, self.experiment.training.batch_size, trains_weights)
        carry, learned = self._started_from(), []
        for row in range(count):
            one = train((*self.on_devices, carry), jax.tree.map(lambda leaf, row=row: leaf[row], tasks))
            learned.append(jax.device_get(one._replace(weights=None, carry=None)))
            if learned[-1].diverged < self.parts.steps:
                break
            carry = one.carry
            self._start_from(one.weights)
            if interruption.asked():
                break
        return jax.tree.map(lambda *leaves: np.stack(leaves), *learned), self._left(trains_weights, carry)

    def _start_from(self, weights: Weights | None) -> None:
        """Has later tasks start from the shared weights as a task left them, if it trained them."""
        if weights is not None:
            self.on_devices = (weights, *self.on_devices[1:])

    def _left(self, trains_weights: bool, carry: Carry) -> dict[str, Any]:
        """What tasks that were learned in turn have replaced, as it is saved."""
        return self._learned.left(self.on_devices[0] if trains_weights else None, carry)

    def _evaluate(self, num_tasks: int) -> tuple[evaluation.Evaluation, dict[str, Any]]:
        _, _, _, test = self.on_devices
        what = self.parts.benchmark, self.parts.protocol, self.experiment.seed, test, self.tasks
        model = self._model(num_tasks)
        if self.parts.method.recovers:
            like = self.parts.method.init(jax.random.key(0), self.weights)
            truth = records.masks_from_hex([task.mask or "" for task in self.record.tasks[:num_tasks]], like)
            measured, paths = evaluation.evaluate_recovery(model, *what, truth=truth)
            return measured, {"recovery": paths}
        return evaluation.evaluate(model, *what), {}
