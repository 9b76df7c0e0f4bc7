"""Learning from a stream whose task boundaries nobody tells: new tasks are discovered (scenario NNs, Section 3.4).

Every task found has a *slot*: scores, and with them a mask. From time to time all masks are superposed on one batch.
Where no mask fits clearly better than the others, the task is new and gets a slot; else the slot that fits is trained.
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
    """What belongs to one discovered task.

    Attributes:
        params: its scores.
        optimizer: the state of its own optimizer, fresh when the task was discovered.
        stats: its batch-norm statistics.
    """

    params: Params
    optimizer: PyTree[Any]
    stats: Stats


class State(NamedTuple):
    """What a learner knows. It is never changed: `Learner.learn` returns the next one.

    Attributes:
        slots: one for each discovered task; those that are not trained lie on the host.
        active: the slot that is trained; nothing while batches are skipped because no slot is free.
        since_check: batches since the last check; nothing before the first batch.
        bank: the masks of all slots, and the random ones of a few that are still to come.
    """

    slots: tuple[Slot, ...]
    active: int | None
    since_check: int | None
    bank: Bank


class DivergedError(UserError):
    """Training in a stream has diverged: a smaller learning rate may help.

    Args:
        batch: the one at which it did, among those that were given.
        loss: its loss there.

    Attributes:
        batch: the same.
        loss: the same.
    """

    def __init__(self, batch: int, loss: float):
        super().__init__(f"training diverged: at batch {batch} the loss is {loss:g}; give a smaller learning rate")
        self.batch, self.loss = batch, loss


@dataclass(frozen=True)
class Rule:
    """When a task is new.

    With n slots superposed, the shares are the softmax of the objective's derivatives times -1. A task is new if
    the largest share is below `novelty / n`.

    Attributes:
        check_every: batches from one check to the next.
        novelty: how many times its equal share a slot needs to be recognised.
        fewest: superposed at least; slots without a task have the random masks that they start with.
        budget: slots that there may be. When all are taken, batches of new tasks are skipped.
        objective: what is derived.
    """

    check_every: int = 100
    novelty: float = 1.125
    fewest: int = 5
    budget: int = 2500
    objective: Objective = inference.entropy

    def __post_init__(self) -> None:
        for name in ("check_every", "fewest", "budget"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")


@dataclass(frozen=True)
class Learner:
    """Learns from a stream of batches, as a function of a state and batches.

    A new task is noticed at a check, and until then the slot in use is trained with its batches. Where many come before
    the check, that slot fits the new task by then, and the two share it: check as often as tasks may change. In the
    paper's stream a check falls on the first batch of every task.

    The memory it takes and the cost of a check grow in proportion to the slots in use.

    Attributes:
        net: the network.
        method: what a slot trains, and how that becomes effective weights.
        optimizer: changes what a slot trains.
        rule: when a task is new.
        seed: of the scores that slots start with.
    """

    net: Network
    method: Method = field(default_factory=SupSup)
    optimizer: Optimizer = field(default_factory=RMSprop)
    rule: Rule = field(default_factory=Rule)
    seed: int = 1

    def __post_init__(self) -> None:
        if "OneShot" not in self.method.searches:
            raise ValueError(f"{type(self.method).__name__} cannot discover tasks: its masks cannot be superposed")

    def init(self, weights: Weights) -> State:
        """The state before the first batch.

        Args:
            weights: the frozen weights.
        """
        return self.resume(weights, ())

    @numerics.with_fixed_flags
    def resume(
        self, weights: Weights, slots: Sequence[Slot], active: int | None = None, since_check: int | None = None
    ) -> State:
        """The state that has these slots, for instance from a checkpoint.

        Args:
            weights: the frozen weights.
            slots: one for each discovered task.
            active: the slot that is trained.
            since_check: batches since the last check; nothing before the first batch.
        """
        size = -(-self.rule.fewest // 8)
        while 8 * size < len(slots):
            size *= 2
        count = max(len(slots), self.rule.fewest)

        def mask(slot: int) -> PyTree[Array]:
            return self.method.finalize(
                slots[slot].params if slot < len(slots) else self._fresh(weights, slot), weights
            )

        def packed(numbers: range) -> Bank:  # a byte at a time: the floats of all masks would not fit in memory
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
        """Learns from the next batches of the stream. How it is cut into calls changes nothing, but for `check`.

        Args:
            state: what the learner knows.
            weights: the frozen weights.
            stats: the statistics that a slot starts from.
            images: normalised images; those of one batch belong to one task.
            labels: their labels.
            check: whether to check at the first of these batches, however long ago the last check was.

        Returns:
            The next state, and for each batch the slot that was trained, -1 where it was skipped.

        Raises:
            DivergedError: if training diverges; the state is as good as before.
            ValueError: if there is not one label for each image.
        """
        if labels.shape != images.shape[:2]:
            raise ValueError(f"there are labels of shape {labels.shape} for images of {images.shape[:2]}")
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
        """A slot as it is when its task is discovered.

        Args:
            weights: the base weights.
            stats: the statistics that a slot starts from.
            number: its number.
        """
        start = Start(weights, self._fresh(weights, number))
        return Slot(start.params, self.task_learner.begin(start, stats).optimizer, stats)

    @property
    def task_learner(self) -> training.Learner:
        """How a slot is trained."""
        return training.Learner(self.net, self.method, self.optimizer)

    @numerics.with_fixed_flags
    def masks(self, state: State, weights: Weights) -> Bank:
        """The masks of the discovered tasks.

        Args:
            state: what the learner knows.
            weights: the base weights.

        Raises:
            ValueError: if there are none yet.
        """
        return banks.first(_with_active(self, state, weights), len(state.slots))

    def stats(self, state: State) -> Stats:
        """The statistics of the discovered tasks, stacked.

        Raises:
            ValueError: if there are none yet.
        """
        if not state.slots:
            raise ValueError("no task has been discovered yet")
        return jax.tree.map(lambda *leaves: np.stack(leaves), *(jax.device_get(slot.stats) for slot in state.slots))

    def _check(self, state: State, weights: Weights, stats: Stats, images: Array) -> State:
        """Decides which slot the coming batches train."""
        rule, found = self.rule, len(state.slots)
        bank = _with_active(self, state, weights)
        if not found:
            return self._discover(state._replace(bank=bank), weights, stats)
        superposed = max(found, rule.fewest)
        # The mean alone, under an axis of one task: a number of slots that grows would be compiled again and again.
        mean_stats = jax.tree.map(lambda leaf: leaf.mean(0)[None], self.stats(state))
        places = 8 * banks.bytes_per_weight(bank)
        model = Model(net=self.net, method=self.method, num_tasks=places, weights=weights, bank=bank, stats=mean_stats)
        chosen = np.arange(places) < superposed
        gradient = inference.gradient_among(model, chosen, images, rule.objective, images_per_pick=len(images))
        gradient = np.asarray(gradient)[0, :superposed]  # on the host: a slice of each length would be compiled
        share = 1 / np.exp(gradient.min() - gradient).sum()  # the largest of the softmax of -gradient
        state = state._replace(bank=bank)
        if share < rule.novelty / superposed:
            return self._discover(state, weights, stats)
        # A slot that has no task yet can fit best; it is then the next to be taken.
        best = int(gradient.argmin())
        return self._activate(state, best) if best < found else self._discover(state, weights, stats)

    def _discover(self, state: State, weights: Weights, stats: Stats) -> State:
        """Takes the next slot, if one is left."""
        number = len(state.slots)
        if number == self.rule.budget:
            return self._activate(state, None)
        slot = self.new_slot(weights, stats, number)
        bank = state.bank
        if number >= 8 * banks.bytes_per_weight(bank):  # double it, so that few sizes are compiled
            bank = jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, leaf.shape[-1])]), bank)
        bank = _put(bank, number, self.method.finalize(slot.params, weights))
        state = self._activate(state, None)
        return state._replace(slots=(*state.slots, slot), active=number, bank=bank)

    def _activate(self, state: State, slot: int | None) -> State:
        """Trains another slot from now on, and moves the one before to the host."""
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
    """The bank with the mask that the active slot has by now."""
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
    """Trains a slot with the batches from `start` to `stop`.

    Returns:
        The slot, the batch at which training diverged, or `stop` if it did not, and the loss there; 0 if it is finite.
    """
    task_learner, before = learner.task_learner, Start(weights, slot.params)

    def step(index: Array, carry: tuple[Progress, Array, Array]) -> tuple[Progress, Array, Array]:
        progress, at, bad = carry
        progress, loss = task_learner.update(before, progress, images[index], labels[index])
        diverged = (at == stop) & ~jnp.isfinite(loss)
        return progress, jnp.where(diverged, index, at), jnp.where(diverged, loss, bad)

    progress = Progress({"weights": None, "params": slot.params}, slot.optimizer, slot.stats)
    never = jnp.int32(stop), jnp.float32(0)  # no NaN, which `jax_debug_nans` would find
    progress, at, bad = jax.lax.fori_loop(start, stop, step, (progress, *never))
    slot = Slot(progress.learned["params"], progress.optimizer, progress.stats)
    return slot, jnp.where(all_finite((slot.params, slot.stats)), at, jnp.minimum(at, stop - 1)), bad
