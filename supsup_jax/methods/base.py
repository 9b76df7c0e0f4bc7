"""Base class of methods, and the types of their data."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from supsup_jax.arguments import Part
from supsup_jax.networks import Network, Weights
from supsup_jax.system import backend

Params = PyTree[Array | np.ndarray]
"""Parameters of one task during training, which the optimizer updates, for instance scores."""

Adapter = PyTree[Array | np.ndarray]
"""Data kept of one learned task, for instance its mask."""

Bank = PyTree[Array | np.ndarray]
"""Adapters of many tasks, in the form in which they are held in memory and in checkpoints."""

Carry = PyTree[Array | np.ndarray]
"""State that a task passes to the next task, besides the base weights."""


SEED = "seed of the random weights"
"""Storage of base weights that no task trains."""


class Phase(NamedTuple):
    """A part of a task's training, with an optimizer of its own.

    Attributes:
        trains_weights: whether it trains the base weights.
        trains_params: whether it trains the parameters of the task.
        share: its share of the task's updates, relative to the shares of the other phases.
    """

    trains_weights: bool
    trains_params: bool
    share: float = 1.0


class Moment(NamedTuple):
    """A point in the training of a task.

    Attributes:
        phase: index of the phase.
        share: the fraction of the updates of the phase that were made; 1 at its end.
    """

    phase: int = 0
    share: Float[Array, ""] | float = 1.0


class Method(Part, ABC):
    """Base class of methods. Instances are frozen dataclasses of their settings.

    A subclass defines the parameters that a task trains (`init`), the adapter that is kept (`finalize`), and the
    effective weights, computed from the base weights and the adapter (`effective_weights`). It overrides `pack`,
    `unpack` and `concatenate` if its bank has a more compact form than adapters stacked along a leading task axis.

    Further hooks are for methods whose tasks are trained in several phases (`phases`, `begin_phase`), whose parameters
    include values that no optimizer updates (`is_trained`), whose base weights are partly frozen (`update_share`),
    whose effective weights change during training (`weights_at`), that add a term to the loss (`penalty`), or that
    superpose tasks to infer them (`superpose`, `project`).

    Tasks are independent and trained in parallel. The exceptions are tasks that train the base weights, and methods
    whose tasks pass a carry to the next task (`first_carry`, `next_carry`).

    Attributes:
        trains_params: whether the parameters of a task are trained; otherwise they keep the values that `init` returns.
        bank_grows: whether the bank grows with each task, so that it contains the banks of fewer tasks; otherwise its
            size is fixed and its values change.
        stacks: whether the bank is the adapters of all tasks stacked along a leading task axis.
        derived: fields that an experiment fills in, such as the name of a layer; all other fields are settings.
        stores: description of an adapter, in words.
        has_masks: whether adapters are masks of the weights, and the bank is one of `supsup_jax.bank`.
        recovers: whether all tasks share one memory, from which `inference.recovery` recovers a task's mask given
            images of the task. Such methods cannot be given a task.
        freezes_stats: whether a task keeps the initial batch-norm statistics, and training uses them too; otherwise
            training uses those of the batch and updates the running ones.
        searches: names of the searches of `supsup_jax.inference` that can infer the task of an image; the first one is
            the default. `OneShot` and `Binary` superpose tasks: they require `superpose` and `project`.
    """

    kind: ClassVar[str] = "method"
    derived: ClassVar[tuple[str, ...]] = ()

    trains_params: ClassVar[bool] = True
    bank_grows: ClassVar[bool] = True
    stacks: ClassVar[bool] = True
    stores: ClassVar[str]
    has_masks: ClassVar[bool] = False
    recovers: ClassVar[bool] = False
    freezes_stats: ClassVar[bool] = False
    searches: ClassVar[tuple[str, ...]] = ("Exhaustive",)

    def check(self, net: Network) -> None:
        """Check that the method supports a network; by default it supports every network.

        Raises:
            UserError: if it does not; the message says what the network lacks.
        """

    def for_network(self, net: Network) -> "Method":
        """Return the method with its `derived` fields filled in from a network, such as the name of the last layer."""
        return self

    def densities(self, weights: PyTree[Any]) -> PyTree[float]:
        """Return the density of the mask of each leaf of the base weights; `{}` if densities are not fixed."""
        return {}

    def trains_weights(self, task: int) -> bool:
        """Return whether this task trains the base weights. It is then trained alone, after all earlier tasks."""
        return False

    def in_turn(self, task: int) -> bool:
        """Return whether this task is trained alone, after all earlier tasks, because it depends on them."""
        return self.trains_weights(task)

    def shared(self, weights: Weights) -> PyTree[Any]:
        """Return the part of the base weights that learned tasks use; by default all of them."""
        return weights

    def first_carry(self, weights: Weights) -> Carry:
        """Return the carry of the first task, given the initial base weights; by default `{}`."""
        return {}

    def next_carry(self, carry: Carry, params: Params) -> Carry:
        """Return the carry for the next task; by default it is not changed.

        Args:
            carry: carry that the task started from.
            params: trained parameters of the task.
        """
        return carry

    def phases(self, task: int) -> tuple[Phase, ...]:
        """Return the phases of a task's training; by default a single one.

        A task with a phase that trains the base weights must return true from `trains_weights`.
        """
        return (Phase(self.trains_weights(task), self.trains_params),)

    def begin_phase(self, phase: int, weights: Weights, params: Params) -> tuple[Weights, Params]:
        """Return base weights and parameters at the start of a phase after the first one, for instance pruned.

        Args:
            phase: index of the phase, from 1.
            weights: base weights at the end of the phase before.
            params: parameters of the task at the end of the phase before.
        """
        return weights, params

    def is_trained(self, params: Params) -> PyTree[bool]:
        """Return which parameters an optimizer updates; by default all.

        Other parameters, such as a random key or the mask of frozen weights, keep their values.

        Returns:
            A prefix of the pytree of parameters: each value holds for all leaves below its place.
        """
        return True

    def update_share(self, weights: Weights, params: Params, phase: int) -> Weights | None:
        """Return the share of each update of the base weights that is applied: 1 for free entries, 0 for frozen ones.

        It multiplies whole updates, so weight decay and momentum do not change frozen entries either.

        Args:
            weights: the base weights, whose shape the result has.
            params: parameters of the task.
            phase: index of the phase.

        Returns:
            `None`, which is the default, if no entry is frozen.
        """
        return None

    @abstractmethod
    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Return the initial parameters of a task.

        Args:
            key: random key, a function of (seed, task).
            weights: the base weights.
            carry: carry of the earlier tasks; by default `first_carry`.
        """

    @abstractmethod
    def finalize(self, params: Params, weights: Weights) -> Adapter:
        """Return the adapter of a task. This function must be differentiable, because training runs through it.

        Args:
            params: parameters of the task.
            weights: the base weights.
        """

    @abstractmethod
    def effective_weights(self, weights: Weights, adapter: Adapter) -> Weights:
        """Return the effective weights, given the base weights and the adapter of a task."""

    def training_weights(self, weights: Weights, params: Params) -> Weights:
        """Return the weights that the network uses while the task is trained."""
        return self.effective_weights(weights, self.finalize(params, weights))

    def weights_at(self, weights: Weights, params: Params, moment: Moment) -> Weights:
        """Return the weights that the network uses at a moment of the training; by default `training_weights`."""
        return self.training_weights(weights, params)

    def penalty(self, weights: Weights, params: Params, moment: Moment) -> Float[Array, ""] | None:
        """Return a term to add to the mean cross-entropy of a batch; `None`, which is the default, for no term."""
        return None

    def pack(self, adapters: Adapter) -> Bank:
        """Return the bank of adapters that are stacked along a leading task axis."""
        return adapters

    def unpack(self, bank: Bank, task: int | Int[Array, ""]) -> Adapter:
        """Return the adapter of one task."""
        return jax.tree.map(lambda leaf: leaf[task], bank)

    def concatenate(self, banks: Sequence[Bank], counts: Sequence[int]) -> Bank:
        """Concatenate banks, given the number of tasks that each of them holds."""
        return jax.tree.map(
            lambda *leaves: np.concatenate([x[:n] for x, n in zip(leaves, counts, strict=True)]), *banks
        )

    def counts(self, bank: Bank, num_tasks: int) -> PyTree[Int[Array | np.ndarray, "..."]] | None:
        """Return how many of the first tasks keep each weight, as int32; `None`, the default, without packed masks.

        Args:
            bank: bank of at least `num_tasks` tasks.
            num_tasks: the number of tasks to count, from the first.
        """
        return None

    def remember(self, bank: Bank | None, adapters: Adapter) -> Bank:
        """Return a bank of fixed size after adding tasks.

        Args:
            bank: current bank; `None` before the first task.
            adapters: adapters of the new tasks in order, stacked along a leading task axis.

        Raises:
            NotImplementedError: if the bank of this method grows.
        """
        raise NotImplementedError(f"the bank of {type(self).__name__} grows: see `pack` and `concatenate`")

    def superpose(
        self, weights: Weights, bank: Bank, alphas: Float[Array, "batch tasks"]
    ) -> PyTree[Float[Array, "batch ..."]]:
        """Return the factors Σᵢ αᵢ Fᵢ of superpositions of all tasks, if effective weights are W ⊙ Fᵢ.

        Args:
            weights: the base weights, which define the structure of the result.
            bank: bank of all tasks.
            alphas: coefficients, one row for each superposition.

        Returns:
            Leaves of shape `(batch, *weight.shape)`, or shapes that broadcast to it.

        Raises:
            NotImplementedError: if the effective weights of this method do not have this form.
        """
        raise NotImplementedError(f"{type(self).__name__} does not superpose tasks; override superpose and project")

    @property
    def superposes_masks(self) -> bool:
        """Whether the factors Fᵢ are the masks, so that counts and rows of masks can replace `superpose`."""
        return self.has_masks

    def count(
        self, weights: Weights, bank: Bank, chosen: Bool[Array, "batch tasks"]
    ) -> PyTree[Float[Array, "batch ..."]]:
        """Return the sums of the factors Fᵢ of the chosen tasks: `superpose` for α of 0 and 1.

        Arguments and errors are those of `superpose`.
        """
        return self.superpose(weights, bank, chosen.astype(jnp.float32))

    def project(
        self, bank: Bank, gradients: PyTree[Float[Array, "batch ..."]], num_tasks: int
    ) -> Float[Array, "batch tasks"]:
        """Return the inner products ⟨g, Fᵢ⟩ of a batch of gradients with the factor of every task.

        With g = ∂L/∂W̃ ⊙ W this is ∂L/∂αᵢ for every task i, from one backward pass.

        Args:
            bank: bank of all tasks.
            gradients: leaves of shape `(batch, *weight.shape)`.
            num_tasks: number of tasks in the bank.

        Raises:
            NotImplementedError: as in `superpose`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not superpose tasks; override superpose and project")

    def narrow(self, bank: Bank, num_tasks: int) -> Bank:
        """Return the part of the bank that holds the first `num_tasks` tasks, unchanged."""
        return jax.tree.map(lambda leaf: leaf[:num_tasks], bank)

    def account(self, weights: Weights, bank: Bank, num_tasks: int) -> dict[str, int]:
        """Return the storage of all tasks in bytes, by content, without batch-norm statistics.

        Base weights that are never trained count as the seed from which they are drawn.

        Args:
            weights: the base weights.
            bank: bank of all tasks.
            num_tasks: number of tasks to count, from the first.
        """
        shared = self.shared(weights)
        if self.trains_weights(0):
            account = {"shared weights": backend.num_bytes(shared)}
        else:
            account = {SEED: 8} if jax.tree.leaves(shared) else {}
        return account | self._account_of_bank(bank, num_tasks)

    def _account_of_bank(self, bank: Bank, num_tasks: int) -> dict[str, int]:
        """Return the storage of the bank in bytes, by content."""
        if self.stacks:
            bank = jax.tree.map(lambda leaf: leaf[:num_tasks], bank)
        return {self.stores: backend.num_bytes(bank)}
