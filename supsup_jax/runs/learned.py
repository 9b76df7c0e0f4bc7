"""What there is of learned tasks: put together from chunks, as they are learned or lie in a checkpoint."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supsup_jax.discovery import Learner, Slot
from supsup_jax.methods import Legacy, Method, Store
from supsup_jax.networks import Stats, Weights
from supsup_jax.runs.checkpoints import Chunk


class TaskStore(ABC):
    """What there is of tasks, as a run holds it in memory, and as it lies in its checkpoints."""

    @property
    @abstractmethod
    def num_tasks(self) -> int:
        """How many tasks there are."""

    @abstractmethod
    def add(self, chunk: Chunk, slots: Sequence[int] = ()) -> None:
        """Takes in a chunk of tasks.

        Args:
            chunk: holds them.
            slots: their numbers, where tasks were discovered.
        """

    def replace(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Takes in what tasks have replaced, beside the shared weights; by default there is nothing."""

    @abstractmethod
    def together(self) -> tuple[Store, Stats]:
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
        method: what is kept of a task.
        weights: the shared weights as they were drawn, or their shapes.
        stats: the statistics that tasks start from, or their shapes.
        weights_are_stored: whether the weights are stored even if no task trains them.
    """

    def __init__(self, method: Method, weights: Any, stats: Any, weights_are_stored: bool = False):
        self._method = method
        self._weights, self._stats = jax.eval_shape(lambda *both: both, weights, stats)
        self._stores_weights = weights_are_stored or method.trains_weights(0)
        self._chunks: list[Chunk] = []
        self._memory: Store | None = None
        self._legacy: Legacy | None = None  # what the last task that was learned in turn has left

    @property
    def num_tasks(self) -> int:
        """How many tasks there are."""
        return sum(chunk.num_tasks for chunk in self._chunks)

    def add(self, chunk: Chunk, slots: Sequence[int] = ()) -> None:
        """Takes in further tasks."""
        self._chunks.append(chunk)

    def replace(self, state: dict[str, Any]) -> None:
        """Takes in what was replaced with them, beside the shared weights."""
        self._memory = state.get("memory", self._memory)
        self._legacy = state.get("legacy", self._legacy)

    def together(self) -> tuple[Store, Stats]:
        """What is kept of all tasks, of which there has to be one, and their statistics, stacked along a task axis."""
        _, store, stats = self.whole()
        return store if self._method.store_grows else self._memory, stats

    def whole(self) -> Chunk:
        """All tasks, of which there has to be one, as one chunk."""
        if len(self._chunks) > 1:  # put together once, and not again at every evaluation
            self._chunks = [_together(self._method, self._chunks)]
        return self._chunks[0]

    def chunk(self, kept: Any, stats: Stats, count: int) -> tuple[Chunk, dict[str, Any]]:
        """Newly learned tasks as they are saved, and what they replace; both on the host.

        Args:
            kept: what is kept of them, stacked along a leading task axis.
            stats: their statistics, stacked as well.
            count: how many there are.
        """
        store, replaced = {}, {}
        if self._method.store_grows:
            store = self._method.pack(kept)
        else:
            replaced = {"memory": self._method.remember(self._memory, kept)}
        store, stats, replaced = jax.device_get((store, stats, replaced))
        return Chunk(count, store, stats), replaced

    def started_from(self, weights: Weights) -> Legacy:
        """What the next task starts from, given the shared weights."""
        return self._method.first_legacy(weights) if self._legacy is None else self._legacy

    def left(self, weights: Weights | None, legacy: Legacy | None) -> dict[str, Any]:
        """What tasks that were learned in turn have replaced, as it is saved; on the host.

        Args:
            weights: the shared weights, if they were trained.
            legacy: what the last task has left for later ones.
        """
        return jax.device_get(({} if weights is None else {"weights": weights}) | _if_any(legacy))

    def state(self, weights: Weights) -> dict[str, Any]:
        """All that is replaced as tasks come, as it is now, given the shared weights."""
        state = self.left(weights if self._stores_weights else None, self._legacy)
        return state if self._memory is None else state | {"memory": self._memory}

    def shapes(self, num_tasks: int) -> tuple[Any, Any]:
        """The shapes and types of a chunk of so many: what is kept, and statistics."""
        method = self._method

        def stacked(weights: Weights, stats: Stats) -> tuple[Store, Stats]:
            kept = method.keep(method.init_task(jax.random.key(0), weights))
            kept, stats = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_tasks), (kept, stats))
            return method.pack(kept) if method.store_grows else {}, stats

        return jax.eval_shape(stacked, self._weights, self._stats)

    def state_shapes(self) -> dict[str, Any]:
        """The shapes and types of what is replaced as tasks come."""
        method = self._method

        def state(weights: Weights) -> dict[str, Any]:
            kept = method.keep(method.init_task(jax.random.key(0), weights))
            left = {"weights": weights} if self._stores_weights else {}
            if method.in_turn(0):
                left |= _if_any(method.first_legacy(weights))
            if method.store_grows:
                return left
            return left | {"memory": method.remember(None, jax.tree.map(lambda leaf: leaf[None], kept))}

        return jax.eval_shape(state, self._weights)


class DiscoveredTasks(TaskStore):
    """The slots of tasks that were discovered, of which a chunk holds those that were trained since the one before.

    Args:
        learner: what discovers them.
        weights: the shared weights.
        stats: the statistics that slots start from.
    """

    def __init__(self, learner: Learner, weights: Weights, stats: Stats):
        self._learner, self._weights, self._stats = learner, weights, stats
        self._like = jax.eval_shape(self._slot)
        self.slots: list[Slot] = []

    @property
    def num_tasks(self) -> int:
        """How many were discovered."""
        return len(self.slots)

    def add(self, chunk: Chunk, slots: Sequence[int] = ()) -> None:
        """Takes in slots, given their numbers: new ones, and others that were trained further."""
        structure = jax.tree.structure(self._like.optimizer)
        for row, number in enumerate(slots):
            owned, leaves, stats = jax.tree.map(
                lambda leaf, row=row: leaf[row], (chunk.store["owned"], chunk.store["optimizer"], chunk.stats)
            )
            slot = Slot(owned, structure.unflatten(leaves[str(place)] for place in range(len(leaves))), stats)
            self.slots[number : number + 1] = [slot]

    def together(self) -> tuple[Store, Stats]:
        """The bank of their masks, of which there has to be one, and their statistics, stacked along a task axis."""
        state = self._learner.resume(self._weights, self.slots)
        return jax.device_get(self._learner.masks(state)), self._learner.stats(state)

    def chunk(self, slots: Sequence[Slot]) -> Chunk:
        """Some slots as they are saved."""
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(slots))
        return Chunk(len(slots), *_as_store(stacked))

    def shapes(self, num_tasks: int) -> tuple[Any, Any]:
        """The shapes and types of a chunk of so many slots: what is kept, and statistics."""
        return _as_store(
            jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num_tasks, *leaf.shape), leaf.dtype), self._like)
        )

    def _slot(self) -> Slot:
        owned = self._learner.method.init_task(jax.random.key(0), self._weights)
        return Slot(owned, self._learner.optimizer.transformation().init(owned), self._stats)


def _as_store(slots: Slot) -> tuple[Any, Stats]:
    """Slots, stacked, as they lie in a checkpoint, which knows no optimiser's classes."""
    leaves = {str(place): leaf for place, leaf in enumerate(jax.tree.leaves(slots.optimizer))}
    return {"owned": slots.owned, "optimizer": leaves}, slots.stats


def _if_any(legacy: Legacy | None) -> dict[str, Legacy]:
    """A part of the state, if there is anything in it."""
    return {"legacy": legacy} if jax.tree.leaves(legacy) else {}


def _together(method: Method, chunks: Sequence[Chunk]) -> Chunk:
    """Several chunks of tasks as one."""
    counts, stores, stats = zip(*chunks, strict=True)
    store = method.concatenate(stores, counts) if method.store_grows else {}
    return Chunk(sum(counts), store, jax.tree.map(lambda *leaves: np.concatenate(leaves), *stats))
