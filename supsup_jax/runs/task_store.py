"""Learned tasks of a run, collected from chunks of newly learned tasks or of checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from supsup_jax.methods import Bank, Carry, Method
from supsup_jax.networks import Stats, Weights
from supsup_jax.runs.chunks import Chunk
from supsup_jax.runs.records import Record, StreamResult, TaskResult, masks_as_hex, now
from supsup_jax.scenarios.discovery import Learner, Slot, State
from supsup_jax.scenarios.work import Results, StreamResults
from supsup_jax.system import backend, numerics


class NewTasks(NamedTuple):
    """Newly learned tasks in the form in which a checkpoint stores them.

    Attributes:
        chunk: the tasks; `None` if nothing is stored per task.
        record: measurements.
        state: new values of the state.
    """

    chunk: Chunk | None
    record: Record
    state: dict[str, Any]


class TaskStore(ABC):
    """Base class of stores for the learned tasks of a run, which convert them from and to the form in checkpoints."""

    @property
    @abstractmethod
    def num_tasks(self) -> int:
        """Number of tasks."""

    @abstractmethod
    def add(self, chunk: Chunk | None, stream: Sequence[StreamResult] = ()) -> None:
        """Add a chunk of tasks.

        Args:
            chunk: the tasks; `None` if nothing is stored per task.
            stream: how the learner trained on each task, if tasks were discovered.
        """

    @abstractmethod
    def pack(self, results: Any, first: int, labels: list[Any] | None = None) -> NewTasks:
        """Return newly learned tasks in the form in which a checkpoint stores them, on the host.

        Args:
            results: a result of `Scenario.learn`.
            first: number of the first task.
            labels: class labels of the task, if it is user-supplied.
        """

    def add_learned(self, results: Any, chunk: Chunk | None) -> None:
        """Add newly learned tasks, given the arguments and the chunk of `pack`."""
        self.add(chunk)

    def replace(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Update the state; by default there is none."""

    @abstractmethod
    def stack(self) -> tuple[Bank, Stats]:
        """Return the bank and the stacked statistics of all tasks; at least one task must have been learned."""

    @abstractmethod
    def shapes(self, num_tasks: int) -> tuple[Any, Any]:
        """Return shapes and dtypes of the bank and the statistics of a chunk.

        Args:
            num_tasks: number of tasks in the chunk.
        """

    @abstractmethod
    def concatenate(self, chunks: Sequence[Chunk]) -> Chunk:
        """Return several chunks as one, without tasks that their arrays hold beyond `num_tasks`."""

    def state_shapes(self) -> dict[str, Any]:
        """Return shapes and dtypes of the state; by default there is none."""
        return {}


class LearnedTasks(TaskStore):
    """Store for tasks whose boundaries were given: their adapters and statistics, and the state.

    Args:
        method: the method.
        weights: initial base weights, or their shapes.
        stats: initial statistics of a task, or their shapes.
    """

    def __init__(self, method: Method, weights: Any, stats: Any):
        self._method = method
        self._weights, self._stats = jax.eval_shape(lambda *trees: trees, weights, stats)
        self._stores_weights = method.trains_weights(0)
        self._shapes: dict[int, tuple[Any, Any]] = {}
        self._chunks: list[Chunk] = []
        self._memory: Bank | None = None
        self._carry: Carry | None = None  # carry of the last task learned in turn

    @property
    def num_tasks(self) -> int:
        """Number of tasks in all chunks."""
        return sum(chunk.num_tasks for chunk in self._chunks)

    def add(self, chunk: Chunk | None, stream: Sequence[StreamResult] = ()) -> None:
        """Add a chunk of tasks."""
        if chunk:
            self._chunks.append(chunk)

    def pack(self, results: Results, first: int, labels: list[Any] | None = None) -> NewTasks:
        """Return newly learned tasks in the form in which a checkpoint stores them, on the host."""
        learned = results.learned
        count = len(learned.loss)
        state = self.replaced_state(learned.weights, learned.carry)
        chunk, replaced = self.chunk(learned.adapter, learned.stats, count)
        has_truth = self._method.recovers and labels is None
        masks = masks_as_hex(learned.adapter) if has_truth else [None] * count
        loss, accuracy = jax.device_get((learned.loss, learned.accuracy))
        tasks = [
            TaskResult(
                task=first + row,
                finished=now(),
                loss=float(loss[row, -1]),
                accuracy=float(accuracy[row, -1]),
                best=float(accuracy[row].max()),
                seconds=results.seconds,
                mask=masks[row],
                labels=labels,
            )
            for row in range(count)
        ]
        return NewTasks(chunk, Record(tasks=tasks), state | replaced)

    def replace(self, state: dict[str, Any]) -> None:
        """Update the memory and the carry."""
        self._memory = state.get("memory", self._memory)
        self._carry = state.get("legacy", self._carry)

    def stack(self) -> tuple[Bank, Stats]:
        """Return the bank, or the memory, and the stacked statistics of all tasks."""
        _, bank, stats = self.merge()
        return bank if self._method.bank_grows else self._memory, stats

    def merge(self) -> Chunk:
        """Return all tasks as one chunk; at least one task must have been learned."""
        if len(self._chunks) > 1:  # keep the merged chunk, so that an evaluation need not merge it again
            merged = self.concatenate(self._chunks)
            bank, stats = backend.aligned(jax.device_get((merged.bank, merged.stats)))
            self._chunks = [Chunk(merged.num_tasks, bank, stats)]
        return self._chunks[0]

    def concatenate(self, chunks: Sequence[Chunk]) -> Chunk:
        """Return several chunks as one."""
        counts, banks, stats = zip(*chunks, strict=True)
        bank = self._method.concatenate(banks, counts) if self._method.bank_grows else {}
        return Chunk(sum(counts), bank, _concatenated(stats, counts))

    def chunk(self, adapters: Any, stats: Stats, count: int) -> tuple[Chunk, dict[str, Any]]:
        """Return newly learned tasks as a chunk, and the new values of the state; both on the host.

        Args:
            adapters: adapters of the tasks, stacked along a leading task axis.
            stats: statistics of the tasks, stacked in the same way.
            count: number of tasks.
        """
        bank, replaced = {}, {}
        if self._method.bank_grows:
            bank = self._method.pack(adapters)
        else:
            replaced = {"memory": self._method.remember(self._memory, adapters)}
        bank, stats, replaced = jax.device_get((bank, stats, replaced))
        return Chunk(count, bank, stats), replaced

    def next_carry(self, weights: Weights) -> Carry:
        """Return the carry that the next task starts from, given the base weights."""
        return self._method.first_carry(weights) if self._carry is None else self._carry

    def replaced_state(self, weights: Weights | None, carry: Carry | None) -> dict[str, Any]:
        """Return the state that tasks learned in turn replace; on the host.

        Args:
            weights: the base weights, or `None` if they were not trained.
            carry: carry of the last task.
        """
        return jax.device_get(({} if weights is None else {"weights": weights}) | _carry_state(carry))

    def state(self, weights: Weights) -> dict[str, Any]:
        """Return the whole state, given the current base weights."""
        state = self.replaced_state(weights if self._stores_weights else None, self._carry)
        return state if self._memory is None else state | {"memory": self._memory}

    def shapes(self, num_tasks: int) -> tuple[Any, Any]:
        """Return shapes and dtypes of the bank and the statistics of a chunk."""
        method = self._method

        def stacked(weights: Weights, stats: Stats) -> tuple[Bank, Stats]:
            adapter = method.finalize(method.init(numerics.key(0), weights), weights)
            adapters, stats = jax.tree.map(
                lambda leaf: jnp.broadcast_to(leaf, (num_tasks, *leaf.shape)), (adapter, stats)
            )
            return method.pack(adapters) if method.bank_grows else {}, stats

        if num_tasks not in self._shapes:  # checkpoints have few different numbers of tasks
            self._shapes[num_tasks] = jax.eval_shape(stacked, self._weights, self._stats)
        return self._shapes[num_tasks]

    def state_shapes(self) -> dict[str, Any]:
        """Return shapes and dtypes of the base weights, the carry and the memory, as far as checkpoints store them."""
        method = self._method

        def initial_state(weights: Weights) -> dict[str, Any]:
            adapter = method.finalize(method.init(numerics.key(0), weights), weights)
            state = {"weights": weights} if self._stores_weights else {}
            if method.in_turn(0):
                state |= _carry_state(method.first_carry(weights))
            if method.bank_grows:
                return state
            return state | {"memory": method.remember(None, jax.tree.map(lambda leaf: leaf[None], adapter))}

        return jax.eval_shape(initial_state, self._weights)


class DiscoveredTasks(TaskStore):
    """Store for discovered tasks. A chunk contains the slots trained since the previous chunk.

    Args:
        learner: learner that discovers the tasks.
        weights: the base weights.
        stats: initial statistics of a slot.
    """

    def __init__(self, learner: Learner, weights: Weights, stats: Stats):
        self._learner, self._weights, self._stats = learner, weights, stats
        self._like = jax.eval_shape(lambda: learner.new_slot(weights, stats, 0))
        self._slots: list[Slot] = []
        self._active: int | None = None  # the slot in training
        self._since_check: int | None = None  # batches since the last check
        self._state: State | None = None

    @property
    def num_tasks(self) -> int:
        """Number of discovered tasks."""
        return len(self._slots)

    def add(self, chunk: Chunk | None, stream: Sequence[StreamResult] = ()) -> None:
        """Add the slots of a chunk: new slots, and slots that were trained further."""
        if stream:
            self._active, self._since_check = stream[-1].active, stream[-1].since_check
        structure = jax.tree.structure(self._like.optimizer)
        saved = [number for result in stream for number in result.saved]
        for row, number in enumerate(saved if chunk else ()):
            assert chunk
            params, leaves, stats = jax.tree.map(
                lambda leaf, row=row: leaf[row], (chunk.bank["owned"], chunk.bank["optimizer"], chunk.stats)
            )
            slot = Slot(params, structure.unflatten(leaves[str(index)] for index in range(len(leaves))), stats)
            self._slots[number : number + 1] = [slot]
        self._state = None

    def pack(self, results: StreamResults, first: int, labels: list[Any] | None = None) -> NewTasks:
        """Return newly learned tasks in the form in which a checkpoint stores them: the slots that they trained."""
        last = results.tasks[-1].task
        stream = [
            StreamResult(
                task.task, task.slots, results.trained if task.task == last else [], task.active, task.since_check
            )
            for task in results.tasks
        ]
        tasks = [
            TaskResult(task.task, now(), None, task.accuracy, task.accuracy, task.seconds) for task in results.tasks
        ]
        slots = [results.state.slots[slot] for slot in results.trained]
        return NewTasks(self.chunk(slots) if slots else None, Record(tasks=tasks, stream=stream), {})

    def replace(self, state: dict[str, Any]) -> None:
        """Update the base weights and the initial statistics, if checkpoints store them."""
        self._weights, self._stats = state.get("weights", self._weights), state.get("stats", self._stats)

    def add_learned(self, results: StreamResults, chunk: Chunk | None) -> None:
        """Take the learner's state. Its slots are shared, because there can be thousands of them."""
        self._state, self._slots = results.state, [*results.state.slots]

    def state_of_learner(self) -> State:
        """Return the state of the learner."""
        if self._state is None:
            self._state = self._learner.resume(self._weights, self._slots, self._active, self._since_check)
        return self._state

    def stack(self) -> tuple[Bank, Stats]:
        """Return the bank of masks and the stacked statistics; at least one task must have been discovered."""
        state = self.state_of_learner()
        return jax.device_get(self._learner.masks(state, self._weights)), self._learner.stats(state)

    def chunk(self, slots: Sequence[Slot]) -> Chunk:
        """Return slots as a chunk."""
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(slots))
        return Chunk(len(slots), *_as_bank(stacked))

    def concatenate(self, chunks: Sequence[Chunk]) -> Chunk:
        """Return several chunks as one; slots that were trained further are in it several times."""
        counts, banks, stats = zip(*chunks, strict=True)
        return Chunk(sum(counts), _concatenated(banks, counts), _concatenated(stats, counts))

    def shapes(self, num_tasks: int) -> tuple[Any, Any]:
        """Return shapes and dtypes of the stored slots and the statistics of a chunk."""
        return _as_bank(
            jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num_tasks, *leaf.shape), leaf.dtype), self._like)
        )


def _as_bank(slots: Slot) -> tuple[Any, Stats]:
    """Return stacked slots as a bank and statistics; the bank has optimizer states as numbered arrays."""
    leaves = {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(slots.optimizer))}
    return {"owned": slots.params, "optimizer": leaves}, slots.stats


def _carry_state(carry: Carry | None) -> dict[str, Carry]:
    """Return the carry as a part of the state; empty if the carry has no arrays."""
    return {"legacy": carry} if jax.tree.leaves(carry) else {}


def _concatenated(trees: Sequence[PyTree[Any]], counts: Sequence[int]) -> PyTree[Any]:
    """Return the first rows of the leaves of several trees, concatenated."""
    return jax.tree.map(
        lambda *leaves: np.concatenate([leaf[:count] for leaf, count in zip(leaves, counts, strict=True)]), *trees
    )
