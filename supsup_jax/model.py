"""The model: a network, its base weights and the adapters of all tasks, as one pytree."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from supsup_jax.arguments import convert, integer, wrong_type
from supsup_jax.methods import Adapter, Bank, Method
from supsup_jax.networks import Network, Stats, Weights
from supsup_jax.system import numerics


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["weights", "bank", "stats"],
    meta_fields=["net", "method", "num_tasks"],
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
    """

    net: Network
    method: Method
    num_tasks: int
    weights: Weights
    bank: Bank
    stats: Stats

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
        """
        count = 1 if learned.loss.ndim == 1 else len(learned.loss)
        adapters, stats = learned.adapter, learned.stats
        if learned.loss.ndim == 1:
            adapters, stats = jax.tree.map(lambda leaf: leaf[None], (adapters, stats))
        if not self.method.bank_grows:
            bank = self.method.remember(self.bank, adapters)
        else:
            bank = self.method.pack(adapters)
            if self.bank is not None:
                bank = self.method.concatenate([self.bank, bank], [self.num_tasks, count])
        stats = jax.tree.map(lambda old, new: jnp.concatenate([old[: self.num_tasks], new]), self.stats, stats)
        weights = self.weights if learned.weights is None else learned.weights
        return dataclasses.replace(self, num_tasks=self.num_tasks + count, weights=weights, bank=bank, stats=stats)

    @numerics.with_fixed_flags
    def adapter(self, task: SupportsIndex | Int[Array, ""]) -> Adapter:
        """Return the adapter of one task, such as its mask."""
        return self.method.unpack(self.bank, _number(task))

    @numerics.with_fixed_flags
    def effective_weights(self, task: SupportsIndex | Int[Array, ""]) -> Weights:
        """Return the effective weights of one task."""
        return self.method.effective_weights(self.weights, self.adapter(task))

    def task_stats(self, task: SupportsIndex | Int[Array, ""]) -> Stats:
        """Return the batch-norm statistics of one task."""
        number = _number(task)
        return jax.tree.map(lambda leaf: leaf[number], self.stats)

    def mean_stats(self) -> Stats:
        """Return the mean of all tasks' batch-norm statistics, for superpositions of masks."""
        return jax.tree.map(lambda leaf: leaf[: self.num_tasks].mean(0), self.stats)


def _number(task: Any) -> Any:
    """Return the number of a task, which may be traced."""
    return task if isinstance(task, jax.Array | np.ndarray) else integer("task", task)
