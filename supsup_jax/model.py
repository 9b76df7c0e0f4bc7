"""The model: a network, its base weights and the adapters of all tasks, as one pytree."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from supsup_jax.arguments import convert, integer, wrong_type
from supsup_jax.bank.shards import Shards
from supsup_jax.errors import UserError
from supsup_jax.methods import Adapter, Bank, Method
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.system import numerics


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["weights", "bank", "stats", "counts"],
    meta_fields=["net", "method", "num_tasks", "num_counted", "shards"],
)
@dataclass(frozen=True, kw_only=True)
class Model:
    """The tasks learned in one network. Tasks are numbered from 0.

    Under `jax.jit` the arrays are traced; the network, the method and the number of tasks are static.

    Attributes:
        net: the network.
        method: computes effective weights from a task's adapter and the base weights.
        num_tasks: the number of tasks in the bank; entries beyond it are unused.
        weights: the base weights.
        bank: the adapters of all tasks, as packed by the method; `None` before the first task.
        stats: the batch-norm statistics of all tasks, stacked along a leading task axis; `{}` without batch norm.
        counts: how many tasks keep each weight, int32 in the shapes of the weights; `None` if they are not known, or
            the method has no masks. Searches then count the masks of the bank at every call; see `with_counts`.
        num_counted: the number of tasks in `counts`, which are used only if it equals `num_tasks`.
        shards: how the bank is divided among devices; `None` if it is not. See `sharded`.
    """

    net: Network
    method: Method
    num_tasks: int
    weights: Weights
    bank: Bank
    stats: Stats
    counts: PyTree[Any] = None
    num_counted: int = 0
    shards: Shards | None = None

    @classmethod
    def init(cls, net: Network | Any, method: Method | Any, key: Key[Array, ""] | Any) -> "Model":
        """Return a model with random base weights and no tasks.

        Args:
            net: the network.
            method: the method of learning tasks.
            key: a random key; the same key gives the same weights.
        """
        net, method = convert("net", net, Network), convert("method", method, Method)
        if not isinstance(key, jax.Array):
            raise wrong_type("key", key, "a random key, such as jax.random.key(1)")
        weights, stats = net.init(key)
        empty = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), stats)
        return cls(net=net, method=method, num_tasks=0, weights=weights, bank=None, stats=empty)

    @numerics.with_fixed_flags
    def extend(self, learned: Any) -> "Model":
        """Return the model with further tasks.

        Args:
            learned: the result of `training.train_task` for one task, or for several with a leading task axis.

        Raises:
            UserError: if the bank is divided among devices.
        """
        if self.shards is not None:
            raise UserError(
                "a sharded model cannot be extended; extend the model that it was made from, and shard that"
            )
        count = 1 if learned.loss.ndim == 1 else len(learned.loss)
        adapters, stats = learned.adapter, learned.stats
        if learned.loss.ndim == 1:
            adapters, stats = jax.tree.map(lambda leaf: leaf[None], (adapters, stats))
        counts: dict[str, Any] = {"counts": None, "num_counted": 0}
        if not self.method.bank_grows:
            bank = self.method.remember(self.bank, adapters)
        else:
            bank = self.method.pack(adapters)
            counts |= self._extended_counts(bank, count)
            if self.bank is not None:
                bank = self.method.concatenate([self.bank, bank], [self.num_tasks, count])
        stats = jax.tree.map(lambda old, new: jnp.concatenate([old[: self.num_tasks], new]), self.stats, stats)
        weights = self.weights if learned.weights is None else learned.weights
        total = self.num_tasks + count
        changes: dict[str, Any] = {"num_tasks": total, "weights": weights, "bank": bank, "stats": stats}
        return dataclasses.replace(self, **changes, **counts)

    def _extended_counts(self, added_bank: Bank, count: int) -> dict[str, Any]:
        """Return the counts after further tasks; `{}` if they stay unknown, since nobody may need them."""
        if self.num_tasks and not self.has_counts:
            return {}
        added = self.method.counts(added_bank, count)
        if added is None:
            return {}
        counts = jax.tree.map(jnp.add, self.counts, added) if self.num_tasks else added
        return {"counts": counts, "num_counted": self.num_tasks + count}

    @property
    def has_counts(self) -> bool:
        """Whether `counts` holds the counts of these tasks."""
        return self.counts is not None and self.num_counted == self.num_tasks

    @numerics.with_fixed_flags
    def with_counts(self) -> "Model":
        """Return the model with `counts`, so that a superposition of all masks does not read the bank."""
        if self.has_counts or not self.num_tasks:
            return self
        counts_on_devices = self.shards is not None and self.method.superposes_masks
        counts = _sharded_counts(self) if counts_on_devices else self.method.counts(self.bank, self.num_tasks)
        return dataclasses.replace(self, counts=counts, num_counted=0 if counts is None else self.num_tasks)

    @numerics.with_fixed_flags
    def sharded(self, devices: Sequence[Any] | None = None) -> "Model":
        """Return the model with its bank divided among devices along the task axis.

        Searches then run on all devices, and each computes the scores of its own tasks; everything else is copied to
        every device. Inferred tasks are those of one device. Devices may belong to several processes, after
        `jax.distributed.initialize`: all of them call this with equal models, whose banks are NumPy arrays, and each
        reads only the part of its own devices.

        Args:
            devices: the devices; by default all of all processes.

        Raises:
            UserError: if there are no tasks, the method has no masks, or devices are repeated.
        """
        if not self.method.has_masks or not self.num_tasks:
            reason = "there are no tasks yet" if self.method.has_masks else f"{type(self.method).__name__} has no masks"
            raise UserError(f"{reason}, so there is no bank of masks to divide among devices; use the model as it is")
        if self.shards is not None:
            raise UserError("the model is sharded already; shard the model that it was made from")
        given = jax.devices() if devices is None else devices
        devices = list(given) if isinstance(given, Sequence | np.ndarray) else [given]
        if not all(isinstance(device, jax.Device) for device in devices):
            raise wrong_type("devices", given, "a list of devices, such as jax.devices()")
        if not devices or len(set(devices)) < len(devices):
            raise UserError(
                f"devices has {len(devices)} entries, {len(set(devices))} of them different; give each once"
            )
        shards = Shards.over(devices, self.method, self.num_tasks)
        bank = shards.place(self.method.narrow(self.bank, self.num_tasks))
        weights, stats, counts = shards.replicate((self.weights, self.stats, self.counts))
        changes: dict[str, Any] = {"weights": weights, "bank": bank, "stats": stats, "counts": counts}
        return dataclasses.replace(self, **changes, shards=shards)

    @numerics.with_fixed_flags
    def adapter(self, task: SupportsIndex | Int[Array, ""]) -> Adapter:
        """Return the adapter of one task, such as its mask.

        Raises:
            IndexError: if there is no such task. Numbers in arrays, which may be traced, are not checked.
        """
        return (self.shards or self.method).unpack(self.bank, self._number(task))

    @numerics.with_fixed_flags
    def effective_weights(self, task: SupportsIndex | Int[Array, ""]) -> Weights:
        """Return the effective weights of one task."""
        return self.method.effective_weights(self.weights, self.adapter(task))

    def task_stats(self, task: SupportsIndex | Int[Array, ""]) -> Stats:
        """Return the batch-norm statistics of one task."""
        number = self._number(task)
        return jax.tree.map(lambda leaf: leaf[number], self.stats)

    def mean_stats(self) -> Stats:
        """Return the mean of all tasks' batch-norm statistics, for superpositions of masks."""
        return jax.tree.map(lambda leaf: leaf[: self.num_tasks].mean(0), self.stats)

    def _number(self, task: Any) -> Any:
        """Return the number of a task; a bank has unused entries beyond the last task."""
        if isinstance(task, jax.Array | np.ndarray):
            return task
        number = integer("task", task)
        if not 0 <= number < self.num_tasks:
            raise IndexError(f"task {number} is not among the {self.num_tasks} tasks of this model")
        return number


@jax.jit
def _sharded_counts(model: Model) -> PyTree[Int[Array, "..."]]:
    """Return how many tasks keep each weight; each device counts its own tasks."""
    assert model.shards is not None
    counted = model.shards.count(model.weights, model.bank, jnp.ones((1, model.num_tasks), bool))
    return jax.tree.map(lambda leaf: leaf[0].astype(jnp.int32), counted)
