"""Learning from a stream whose task boundaries are hidden: new tasks are discovered (scenario NNs, Section 3.4).

Each discovered task has a *slot*: scores, and therefore a mask. From time to time, the learner superposes all masks on
one batch. If no mask fits clearly better than the others, the task is new and gets a slot. Otherwise, the slot that
fits best is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from supsup_jax import bank as banks
from supsup_jax import inference, training
from supsup_jax.bank import Bank
from supsup_jax.errors import UserError
from supsup_jax.inference import Objective
from supsup_jax.methods import Method, Params, SupSup
from supsup_jax.model import Model
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.optimizers import Optimizer, RMSprop
from supsup_jax.system import numerics
from supsup_jax.training import Progress, Start, all_finite, task_key


class Slot(NamedTuple):
    """Training state of one discovered task.

    Attributes:
        params: scores.
        optimizer: state of the slot's separate optimizer, initialised when the task was discovered.
        stats: batch-norm statistics.
    """

    params: Params
    optimizer: PyTree[Any]
    stats: Stats


class State(NamedTuple):
    """State of a learner. It is immutable: `Learner.learn` returns the next state.

    Attributes:
        slots: one slot per discovered task. All slots but the active one are on the host.
        active: number of the slot in training; `None` while batches are skipped because no slot is free.
        since_check: batches since the last check; `None` before the first batch.
        bank: masks of all slots, followed by random masks of slots that may be taken later.
    """

    slots: tuple[Slot, ...]
    active: int | None
    since_check: int | None
    bank: Bank


class DivergedError(UserError):
    """Training in a stream diverged; a smaller learning rate may help.

    Args:
        batch: index of the batch with the non-finite loss, among the batches of the call; also an attribute.
        loss: loss of that batch; also an attribute.
    """

    def __init__(self, batch: int, loss: float):
        super().__init__(f"training diverged: at batch {batch} the loss is {loss:g}; give a smaller learning rate")
        self.batch, self.loss = batch, loss


@dataclass(frozen=True)
class Rule:
    """Rule that decides whether a task is new.

    With n superposed slots, the shares are the softmax of the negative derivatives of the objective. A task is new if
    the largest share is below `novelty / n`.

    Attributes:
        check_every: batches between two checks.
        novelty: a slot is recognised if its share is at least this many times 1 / n.
        fewest: minimum number of superposed slots; slots without a task use their random initial masks.
        budget: maximum number of slots. When all are taken, batches of new tasks are skipped.
        objective: objective whose derivatives are compared.
    """

    check_every: int = 100
    novelty: float = 1.125
    fewest: int = 5
    budget: int = 2500
    objective: Objective = inference.entropy

    def __post_init__(self) -> None:
        for name in ("check_every", "fewest", "budget"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class Learner:
    """Learner of a stream of batches, as a function of a state and batches.

    A new task is noticed only at a check; until then, its batches train the slot in use. After many such batches, that
    slot fits the new task too, and both tasks share it. Therefore, check as often as tasks may change. In the paper's
    stream, a check falls on the first batch of every task.

    Memory and the cost of a check grow in proportion to the number of slots in use.

    Attributes:
        net: the network.
        method: defines what a slot trains and how that becomes effective weights.
        optimizer: optimizer of a slot.
        rule: decides whether a task is new.
        seed: seed of the initial scores of slots.
    """

    net: Network
    method: Method = field(default_factory=SupSup)
    optimizer: Optimizer = field(default_factory=RMSprop)
    rule: Rule = field(default_factory=Rule)
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.method.has_masks or "OneShot" not in self.method.searches:
            raise ValueError(
                f"method {type(self.method).__name__}: cannot discover tasks, because its masks cannot be superposed"
            )

    def init(self, weights: Weights) -> State:
        """Return the state before the first batch.

        Args:
            weights: the frozen base weights.
        """
        return self.resume(weights, ())

    @numerics.with_fixed_flags
    def resume(
        self, weights: Weights, slots: Sequence[Slot], active: int | None = None, since_check: int | None = None
    ) -> State:
        """Return a state with the given slots, for example from a checkpoint.

        Args:
            weights: the frozen base weights.
            slots: one slot per discovered task.
            active: number of the slot in training.
            since_check: batches since the last check; `None` before the first batch.
        """
        size = -(-self.rule.fewest // 8)
        while 8 * size < len(slots):
            size *= 2
        count = max(len(slots), self.rule.fewest)

        def mask(slot: int) -> PyTree[Array]:
            return self.method.finalize(
                slots[slot].params if slot < len(slots) else self._fresh(weights, slot), weights
            )

        def packed(numbers: range) -> Bank:  # pack eight masks at a time: all masks as floats would not fit in memory
            return banks.pack(jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(mask, numbers)))

        groups = [range(start, min(start + 8, count)) for start in range(0, count, 8)]
        bank = banks.concatenate([packed(group) for group in groups], [len(group) for group in groups])
        spare = size - banks.bytes_per_weight(bank)
        bank = jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, spare)]), bank)
        return State(tuple(slots), active, since_check, bank)

    @numerics.with_fixed_flags
    def learn(
        self,
        state: State,
        weights: Weights,
        stats: Stats,
        images: Float[Array | np.ndarray, "batches batch height width channels"],
        labels: Int[Array | np.ndarray, "*shape"],
        check: bool = False,
    ) -> tuple[State, Int[np.ndarray, " batches"]]:
        """Learn from the next batches of the stream.

        If `check` is not set, the result does not depend on how the stream is split into calls.

        Args:
            state: state of the learner.
            weights: the frozen base weights.
            stats: initial statistics of a slot.
            images: normalised images; the images of one batch belong to one task.
            labels: labels of the images.
            check: whether to check at the first of these batches, no matter when the last check was.

        Returns:
            The next state, and the slot that each batch trained; -1 for skipped batches.

        Raises:
            DivergedError: if training diverges; `state` stays valid.
            ValueError: if there is not exactly one label per image.
        """
        if labels.shape != images.shape[:2]:
            raise ValueError(f"labels have shape {labels.shape}; expected one label per image: {images.shape[:2]}")
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        slots_of_batches = np.full(len(images), -1)
        batch, since = 0, state.since_check
        while batch < len(images):
            if check or since is None or since >= self.rule.check_every:
                state, since, check = self._check(state, weights, stats, images[batch]), 0, False
            count = min(self.rule.check_every - since, len(images) - batch)
            if (active := state.active) is not None:
                end = batch + count
                trained, at, loss = _train(self, weights, state.slots[active], images, labels, start=batch, stop=end)
                if at < end:
                    raise DivergedError(int(at), float(loss) or np.nan)
                state = state._replace(slots=(*state.slots[:active], trained, *state.slots[active + 1 :]))
                slots_of_batches[batch : batch + count] = active
            batch, since = batch + count, since + count
        return state._replace(since_check=since), slots_of_batches

    @numerics.with_fixed_flags
    def new_slot(self, weights: Weights, stats: Stats, number: int) -> Slot:
        """Return the initial slot of a newly discovered task.

        Args:
            weights: the base weights.
            stats: initial statistics of a slot.
            number: slot number.
        """
        start = Start(weights, self._fresh(weights, number))
        return Slot(start.params, self.task_learner.begin(start, stats).optimizer, stats)

    @property
    def task_learner(self) -> training.Learner:
        """The learner that trains a slot."""
        return training.Learner(self.net, self.method, self.optimizer)

    @numerics.with_fixed_flags
    def masks(self, state: State, weights: Weights) -> Bank:
        """Return the masks of the discovered tasks.

        Args:
            state: state of the learner.
            weights: the base weights.

        Raises:
            ValueError: if no task has been discovered.
        """
        return banks.first(_with_active(self, state, weights), len(state.slots))

    def stats(self, state: State) -> Stats:
        """Return the statistics of the discovered tasks, stacked.

        Raises:
            ValueError: if no task has been discovered.
        """
        if not state.slots:
            raise ValueError("no task has been discovered yet")
        return jax.tree.map(lambda *leaves: np.stack(leaves), *(jax.device_get(slot.stats) for slot in state.slots))

    def _check(self, state: State, weights: Weights, stats: Stats, images: Array) -> State:
        """Choose the slot that the next batches train."""
        rule, found = self.rule, len(state.slots)
        bank = _with_active(self, state, weights)
        if not found:
            return self._discover(state._replace(bank=bank), weights, stats)
        superposed = max(found, rule.fewest)
        # Pass the mean with a task axis of length 1: the growing number of slots would cause recompilation.
        mean_stats = jax.tree.map(lambda leaf: leaf.mean(0)[None], self.stats(state))
        places = 8 * banks.bytes_per_weight(bank)
        model = Model(net=self.net, method=self.method, num_tasks=places, weights=weights, bank=bank, stats=mean_stats)
        chosen = np.arange(places) < superposed
        gradient = inference.gradient_among(model, chosen, images, rule.objective, images_per_pick=len(images))
        gradient = np.asarray(gradient)[0, :superposed]  # on the host, where slicing needs no compilation
        share = 1 / np.exp(gradient.min() - gradient).sum()  # the maximum of softmax(-gradient)
        state = state._replace(bank=bank)
        if share < rule.novelty / superposed:
            return self._discover(state, weights, stats)
        # If a slot without a task fits best, the task is new too.
        best = int(gradient.argmin())
        return self._activate(state, best) if best < found else self._discover(state, weights, stats)

    def _discover(self, state: State, weights: Weights, stats: Stats) -> State:
        """Take the next slot if one is free."""
        number = len(state.slots)
        if number == self.rule.budget:
            return self._activate(state, None)
        slot = self.new_slot(weights, stats, number)
        bank = state.bank
        if number >= 8 * banks.bytes_per_weight(bank):  # double the size, so that few sizes are compiled
            bank = jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, leaf.shape[-1])]), bank)
        bank = _put(bank, number, self.method.finalize(slot.params, weights))
        state = self._activate(state, None)
        return state._replace(slots=(*state.slots, slot), active=number, bank=bank)

    def _activate(self, state: State, slot: int | None) -> State:
        """Make a slot the active one, and move the previously active slot to the host."""
        before = state.active
        if before is None or before == slot:
            return state._replace(active=slot)
        moved = jax.device_get(state.slots[before])
        return state._replace(slots=(*state.slots[:before], moved, *state.slots[before + 1 :]), active=slot)

    def _fresh(self, weights: Weights, slot: int) -> Params:
        return self.method.init(_slot_key(self.seed, slot), weights)


def _slot_key(seed: int, slot: int) -> Key[Array, ""]:
    return jax.random.split(task_key(seed, slot))[0]


def _with_active(learner: Learner, state: State, weights: Weights) -> Bank:
    """Return the bank with the current mask of the active slot."""
    if state.active is None:
        return state.bank
    return _put(state.bank, state.active, learner.method.finalize(state.slots[state.active].params, weights))


@jax.jit
def _put(bank: Bank, slot: Int[Array, ""] | int, mask: PyTree[Array]) -> Bank:
    return banks.replace(bank, jnp.asarray(slot), mask)


@partial(jax.jit, static_argnames=("learner",))
def _train(
    learner: Learner,
    weights: Weights,
    slot: Slot,
    images: Array,
    labels: Array,
    *,
    start: Int[Array, ""] | int,
    stop: Int[Array, ""] | int,
) -> tuple[Slot, Int[Array, ""], Float[Array, ""]]:
    """Train a slot on batches `start` to `stop - 1`.

    Returns:
        The slot; the index of the batch at which training diverged, or `stop`; and the loss of that batch, or 0.
    """
    task_learner, before = learner.task_learner, Start(weights, slot.params)

    def step(index: Array, carry: tuple[Progress, Array, Array]) -> tuple[Progress, Array, Array]:
        progress, at, bad = carry
        progress, loss = task_learner.update(before, progress, images[index], labels[index])
        diverged = (at == stop) & ~jnp.isfinite(loss)
        return progress, jnp.where(diverged, index, at), jnp.where(diverged, loss, bad)

    progress = Progress({"weights": None, "params": slot.params}, slot.optimizer, slot.stats)
    never = jnp.int32(stop), jnp.float32(0)  # 0 instead of NaN, which would trip `jax_debug_nans`
    progress, at, bad = jax.lax.fori_loop(start, stop, step, (progress, *never))
    slot = Slot(progress.learned["params"], progress.optimizer, progress.stats)
    return slot, jnp.where(all_finite((slot.params, slot.stats)), at, jnp.minimum(at, stop - 1)), bad
