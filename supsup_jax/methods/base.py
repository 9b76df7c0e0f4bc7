"""What a method is: what a task trains, what is kept of it, and how that becomes effective weights."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from supsup_jax.arguments import Part
from supsup_jax.networks import Network, Weights
from supsup_jax.system import backend

Params = PyTree[Array | np.ndarray]
"""The parameters of one task while it is learned: what the optimizer changes, for instance scores."""

Adapter = PyTree[Array | np.ndarray]
"""What is kept of one task once it is learned, for instance its mask."""

Bank = PyTree[Array | np.ndarray]
"""The adapters of many tasks, in the form in which they lie in memory and in checkpoints."""

Carry = PyTree[Array | np.ndarray]
"""What a task leaves for the next one to start from, besides the base weights."""


class Method(Part, ABC):
    """A way of learning many tasks in one network. Instances are frozen dataclasses of their settings.

    A new method says what a task trains (`init`), what is kept of it (`finalize`), and how that and the base weights
    become the weights that the network runs with (`effective_weights`). `pack`, `unpack` and `concatenate` are
    overridden where there is a better form than adapters stacked along a leading task axis. Tasks are independent and
    learned side by side, except those that train the base weights, and those of methods where every task leaves
    something for the next one (`first_carry`, `next_carry`).

    Attributes:
        trains_params: whether the parameters of a task are trained; otherwise they stay as `init` gives them.
        bank_grows: whether a bank of more tasks contains the bank of fewer; otherwise it has one size, and changes.
        stacks: whether a bank is the adapters of all tasks, stacked along a leading task axis.
        derived: fields that an experiment fills in, such as the name of a layer; all others are settings.
        stores: what an adapter is, in words.
        has_masks: whether an adapter is a mask of the weights, and the bank one of `supsup_jax.masks`.
        recovers: whether all tasks are in one memory, out of which `inference.recovery` gets the mask of a task, given
            images of that task. No task can be given then.
        searches: the searches of `supsup_jax.inference` that can infer the task of an image, by their names. `OneShot`
            and `Binary` superpose masks: effective weights W ⊙ M, linear in M.
    """

    kind: ClassVar[str] = "method"
    derived: ClassVar[tuple[str, ...]] = ()

    trains_params: ClassVar[bool] = True
    bank_grows: ClassVar[bool] = True
    stacks: ClassVar[bool] = True
    stores: ClassVar[str]
    has_masks: ClassVar[bool] = False
    recovers: ClassVar[bool] = False
    searches: ClassVar[tuple[str, ...]] = ("Exhaustive",)

    def check(self, net: Network) -> None:
        """Checks that the method can work with a network; by default any.

        Raises:
            UserError: if it cannot; the message says what the network lacks.
        """

    def for_network(self, net: Network) -> "Method":
        """The method with what it has to know of a network, such as the name of its last layer."""
        return self

    def densities(self, weights: PyTree[Any]) -> PyTree[float]:
        """The fraction of each leaf of the base weights that a mask keeps; `{}` where that is not fixed."""
        return {}

    def trains_weights(self, task: int) -> bool:
        """Whether the base weights are trained with this task; it is then learned after all before it, alone."""
        return False

    def in_turn(self, task: int) -> bool:
        """Whether this task is learned after all before it, alone, since it needs or changes what they leave."""
        return self.trains_weights(task)

    def shared(self, weights: Weights) -> PyTree[Any]:
        """The part of the base weights that learned tasks run with; by default all."""
        return weights

    def first_carry(self, weights: Weights) -> Carry:
        """What the first task starts from, given the base weights as they were drawn; by default `{}`."""
        return {}

    def next_carry(self, carry: Carry, params: Params) -> Carry:
        """What a task leaves for the next one; by default what it started from.

        Args:
            carry: what the task started from.
            params: its parameters, trained.
        """
        return carry

    @abstractmethod
    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """The parameters that a new task starts with.

        Args:
            key: a random key, a function of (seed, task).
            weights: the base weights.
            carry: what the tasks before leave; by default `first_carry`.
        """

    @abstractmethod
    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """What is kept of a task; differentiable, since training runs through it.

        Args:
            params: the parameters of the task.
            weights: the base weights.
        """

    @abstractmethod
    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """The weights that the network runs with, given the base weights and the adapter of a task."""

    def training_weights(self, weights: Weights, params: Params) -> Weights:
        """The weights that the network runs with while the task is learned."""
        return self.effective_weights(weights, self.finalize(params, weights))

    def pack(self, adapters: Adapter) -> Bank:
        """The bank of adapters that are stacked along a leading task axis."""
        return adapters

    def unpack(self, bank: Bank, task: int | Int[Array, ""]) -> Adapter:
        """The adapter of one task."""
        return jax.tree.map(lambda leaf: leaf[task], bank)

    def concatenate(self, banks: Sequence[Bank], counts: Sequence[int]) -> Bank:
        """One bank of the tasks of several banks, given how many tasks each of them holds."""
        return jax.tree.map(
            lambda *leaves: np.concatenate([x[:n] for x, n in zip(leaves, counts, strict=True)]), *banks
        )

    def remember(self, bank: Bank | None, adapters: Adapter) -> Bank:
        """A bank that does not grow, after it has taken in more tasks.

        Args:
            bank: the bank so far; `None` before the first task.
            adapters: the adapters of the new tasks, stacked along a leading task axis, in order.

        Raises:
            NotImplementedError: if the bank of this method grows.
        """
        raise NotImplementedError(f"the bank of {type(self).__name__} grows: see `pack` and `concatenate`")

    def account(self, weights: Weights, bank: Bank, num_tasks: int) -> dict[str, int]:
        """The bytes that tasks take, besides their batch-norm statistics, by what takes them.

        Base weights that are never trained take the seed that they are drawn from.

        Args:
            weights: the base weights.
            bank: the adapters of all tasks.
            num_tasks: how many tasks of the bank count, from the first.
        """
        shared = self.shared(weights)
        if self.trains_weights(0):
            account = {"shared weights": backend.num_bytes(shared)}
        else:
            account = {"seed of the random weights": 8} if jax.tree.leaves(shared) else {}
        return account | self._account_of_bank(bank, num_tasks)

    def _account_of_bank(self, bank: Bank, num_tasks: int) -> dict[str, int]:
        """The bytes of a bank."""
        if self.stacks:
            bank = jax.tree.map(lambda leaf: leaf[:num_tasks], bank)
        return {self.stores: backend.num_bytes(bank)}
