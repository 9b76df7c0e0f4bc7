"""What there is of learned tasks: put together from chunks, as they are learned or lie in a checkpoint."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supsup_jax.methods import Bank, Carry, Method
from supsup_jax.networks import Stats, Weights
from supsup_jax.runs.checkpoints import Chunk
from supsup_jax.runs.records import Record, StreamResult, TaskResult, masks_as_hex, now
from supsup_jax.scenarios.discovery import Learner, Slot, State
from supsup_jax.scenarios.work import Results, StreamResults
from supsup_jax.system import numerics


class NewTasks(NamedTuple):
    """Newly learned tasks in the form in which they are saved.

    Attributes:
        chunk: the tasks, if there is anything of them to keep.
        record: what was measured.
        state: what the tasks replace.
    """

    chunk: Chunk | None
    record: Record
    state: dict[str, Any]


class TaskStore(ABC):
    """What there is of tasks, as a run holds it in memory, and as it lies in its checkpoints."""

    @property
    @abstractmethod
    def num_tasks(self) -> int:
        """How many tasks there are."""

    @abstractmethod
    def add(self, chunk: Chunk | None, stream: Sequence[StreamResult] = ()) -> None:
        """Takes in a chunk of tasks.

        Args:
            chunk: holds them, if anything is kept of them.
            stream: what the learner made of each, where tasks were discovered.
        """

    @abstractmethod
    def pack(self, results: Any, first: int, labels: list[Any] | None = None) -> NewTasks:
        """Newly learned tasks as they are saved, on the host.

        Args:
            results: what a scenario yields.
            first: the number of the first task.
            labels: what the classes of the task are called, where it is a user's own.
        """

    def add_learned(self, results: Any, chunk: Chunk | None) -> None:
        """Takes in newly learned tasks, given `results` and its chunk in `news`."""
        self.add(chunk)

    def replace(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Takes in what tasks have replaced, beside the base weights; by default there is nothing."""

    @abstractmethod
    def stack(self) -> tuple[Bank, Stats]:
        """What is kept of all tasks, of which there has to be one, and their statistics, stacked along a task axis."""

    @abstractmethod
    def shapes(self, num_tasks: int) -> tuple[Any, Any]:
        """The shapes and types of a chunk of so many: what is kept, and statistics."""

    def state_shapes(self) -> dict[str, Any]:
        """The shapes and types of what is replaced as tasks come; by default nothing is."""
        return {}


class LearnedTasks(TaskStore):
    """Tasks that were given: what is kept of them, their statistics, and what they have replaced.

    Args:
        method: what a task trains, and what is kept of it.
        weights: the base weights as they were drawn, or their shapes.
        stats: the statistics that tasks start from, or their shapes.
        weights_are_stored: whether the weights are stored even if no task trains them.
    """

    def __init__(self, method: Method, weights: Any, stats: Any, weights_are_stored: bool = False):
        self._method = method
        self._weights, self._stats = jax.eval_shape(lambda *both: both, weights, stats)
        self._stores_weights = weights_are_stored or method.trains_weights(0)
        self._chunks: list[Chunk] = []
        self._memory: Bank | None = None
        self._carry: Carry | None = None  # what the last task that was learned in turn has left

    @property
    def num_tasks(self) -> int:
        """How many tasks there are."""
        return sum(chunk.num_tasks for chunk in self._chunks)

    def add(self, chunk: Chunk | None, stream: Sequence[StreamResult] = ()) -> None:
        """Takes in further tasks."""
        if chunk:
            self._chunks.append(chunk)

    def pack(self, results: Results, first: int, labels: list[Any] | None = None) -> NewTasks:
        """Newly learned tasks as they are saved, on the host."""
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
        """Takes in what was replaced with them, beside the base weights."""
        self._memory = state.get("memory", self._memory)
        self._carry = state.get("legacy", self._carry)

    def stack(self) -> tuple[Bank, Stats]:
        """What is kept of all tasks, of which there has to be one, and their statistics, stacked along a task axis."""
        _, bank, stats = self.merge()
        return bank if self._method.bank_grows else self._memory, stats

    def merge(self) -> Chunk:
        """All tasks, of which there has to be one, as one chunk."""
        if len(self._chunks) > 1:  # put together once, and not again at every evaluation
            self._chunks = [_merge_chunks(self._method, self._chunks)]
        return self._chunks[0]

    def chunk(self, adapters: Any, stats: Stats, count: int) -> tuple[Chunk, dict[str, Any]]:
        """Newly learned tasks as they are saved, and what they replace; both on the host.

        Args:
            adapters: what is kept of them, stacked along a leading task axis.
            stats: their statistics, stacked as well.
            count: how many there are.
        """
        bank, replaced = {}, {}
        if self._method.bank_grows:
            bank = self._method.pack(adapters)
        else:
            replaced = {"memory": self._method.remember(self._memory, adapters)}
        bank, stats, replaced = jax.device_get((bank, stats, replaced))
        return Chunk(count, bank, stats), replaced

    def next_carry(self, weights: Weights) -> Carry:
        """What the next task starts from, given the base weights."""
        return self._method.first_carry(weights) if self._carry is None else self._carry

    def replaced_state(self, weights: Weights | None, carry: Carry | None) -> dict[str, Any]:
        """What tasks that were learned in turn have replaced, as it is saved; on the host.

        Args:
            weights: the base weights, if they were trained.
            carry: what the last task has left for later ones.
        """
        return jax.device_get(({} if weights is None else {"weights": weights}) | _carry_state(carry))

    def state(self, weights: Weights) -> dict[str, Any]:
        """All that is replaced as tasks come, as it is now, given the base weights."""
        state = self.replaced_state(weights if self._stores_weights else None, self._carry)
        return state if self._memory is None else state | {"memory": self._memory}

    def shapes(self, num_tasks: int) -> tuple[Any, Any]:
        """The shapes and types of a chunk of so many: what is kept, and statistics."""
        method = self._method

        def stacked(weights: Weights, stats: Stats) -> tuple[Bank, Stats]:
            adapter = method.finalize(method.init(numerics.key(0), weights), weights)
            adapters, stats = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_tasks), (adapter, stats))
            return method.pack(adapters) if method.bank_grows else {}, stats

        return jax.eval_shape(stacked, self._weights, self._stats)

    def state_shapes(self) -> dict[str, Any]:
        """The shapes and types of what is replaced as tasks come."""
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
    """The slots of tasks that were discovered, of which a chunk holds those that were trained since the one before.

    Args:
        learner: what discovers them.
        weights: the base weights.
        stats: the statistics that slots start from.
    """

    def __init__(self, learner: Learner, weights: Weights, stats: Stats):
        self._learner, self._weights, self._stats = learner, weights, stats
        self._like = jax.eval_shape(lambda: learner.new_slot(weights, stats, 0))
        self._slots: list[Slot] = []
        self._position: tuple[int | None, int | None] = (
            None,
            None,
        )  # the slot in use, and batches since the last check
        self._state: State | None = None

    @property
    def num_tasks(self) -> int:
        """How many were discovered."""
        return len(self._slots)

    def add(self, chunk: Chunk | None, stream: Sequence[StreamResult] = ()) -> None:
        """Takes in slots: new ones, and others that were trained further."""
        if stream:
            self._position = stream[-1].active, stream[-1].since_check
        structure = jax.tree.structure(self._like.optimizer)
        for row, number in enumerate(stream[-1].saved if chunk else ()):
            assert chunk
            params, leaves, stats = jax.tree.map(
                lambda leaf, row=row: leaf[row], (chunk.bank["owned"], chunk.bank["optimizer"], chunk.stats)
            )
            slot = Slot(params, structure.unflatten(leaves[str(place)] for place in range(len(leaves))), stats)
            self._slots[number : number + 1] = [slot]
        self._state = None

    def pack(self, results: StreamResults, first: int, labels: list[Any] | None = None) -> NewTasks:
        """Newly learned tasks as they are saved: a chunk has the slots that they trained."""
        last = results.tasks[-1].task
        stream = [
            StreamResult(fed.task, fed.slots, results.trained if fed.task == last else [], fed.active, fed.since_check)
            for fed in results.tasks
        ]
        tasks = [TaskResult(fed.task, now(), None, fed.accuracy, fed.accuracy, fed.seconds) for fed in results.tasks]
        slots = [results.state.slots[slot] for slot in results.trained]
        return NewTasks(self.chunk(slots) if slots else None, Record(tasks=tasks, stream=stream), {})

    def add_learned(self, results: StreamResults, chunk: Chunk | None) -> None:
        """Takes in the learner's state, whose slots are shared: thousands of them are not held twice."""
        self._state, self._slots = results.state, [*results.state.slots]

    def state_of_learner(self) -> State:
        """The state of the learner that discovered them."""
        if self._state is None:
            self._state = self._learner.resume(self._weights, self._slots, *self._position)
        return self._state

    def stack(self) -> tuple[Bank, Stats]:
        """The bank of their masks, of which there has to be one, and their statistics, stacked along a task axis."""
        state = self.state_of_learner()
        return jax.device_get(self._learner.masks(state, self._weights)), self._learner.stats(state)

    def chunk(self, slots: Sequence[Slot]) -> Chunk:
        """Some slots as they are saved."""
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(slots))
        return Chunk(len(slots), *_as_bank(stacked))

    def shapes(self, num_tasks: int) -> tuple[Any, Any]:
        """The shapes and types of a chunk of so many slots: what is kept, and statistics."""
        return _as_bank(
            jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num_tasks, *leaf.shape), leaf.dtype), self._like)
        )


def _as_bank(slots: Slot) -> tuple[Any, Stats]:
    """Slots, stacked, as they lie in a checkpoint, which knows no optimiser's classes."""
    leaves = {str(place): leaf for place, leaf in enumerate(jax.tree.leaves(slots.optimizer))}
    return {"owned": slots.params, "optimizer": leaves}, slots.stats


def _carry_state(carry: Carry | None) -> dict[str, Carry]:
    """A part of the state, if there is anything in it."""
    return {"legacy": carry} if jax.tree.leaves(carry) else {}


def _merge_chunks(method: Method, chunks: Sequence[Chunk]) -> Chunk:
    """Several chunks of tasks as one."""
    counts, banks, stats = zip(*chunks, strict=True)
    bank = method.concatenate(banks, counts) if method.bank_grows else {}
    return Chunk(sum(counts), bank, jax.tree.map(lambda *leaves: np.concatenate(leaves), *stats))
