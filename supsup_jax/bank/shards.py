"""Banks of masks divided among devices along the task axis: each device multiplies with the masks of its own tasks.

Every leaf of such a bank is one array over the devices of a mesh, sharded along its last axis. All devices hold the
same number of bytes, so zero bytes are appended where necessary. Products are computed by `jax.shard_map`. Only their
results move between devices, one number for each task or each weight; the bank never does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from supsup_jax.bank import parts
from supsup_jax.bank.bits import Bank
from supsup_jax.bank.gradients import Columns

_AXIS = "shards"

Masks = PyTree[Array | np.ndarray]
"""A pytree with the structure of the weights."""


@runtime_checkable
class Method(Protocol):
    """The products of a method with its bank; see `supsup_jax.methods.Method`."""

    def unpack(self, bank: Bank, task: int | Int[Array, ""]) -> Masks:
        """Return the mask of one task."""
        ...

    def count(self, weights: Masks, bank: Bank, chosen: Bool[Array, "batch tasks"]) -> Masks:
        """Return the sums of the chosen tasks' masks."""
        ...

    def superpose(self, weights: Masks, bank: Bank, alphas: Float[Array, "batch tasks"]) -> Masks:
        """Return the superpositions of all masks."""
        ...

    def project(self, bank: Bank, gradients: Masks, num_tasks: int) -> Float[Array, "batch {num_tasks}"]:
        """Return the inner products of gradients with every mask."""
        ...


@dataclass(frozen=True)
class Shards:
    """Division of a bank of masks among devices, and the products with such a bank; hashable.

    Results are the same on every device. They equal those of a bank on one device: exactly, where they are whole
    numbers, and otherwise up to the rounding of sums, whose order in XLA depends on the shapes of arrays.

    Attributes:
        mesh: a mesh with one axis; its devices may belong to several processes. See `over`.
        method: the method, which has masks.
        num_tasks: the number of tasks in the bank.
    """

    mesh: Mesh
    method: Method
    num_tasks: int

    @classmethod
    def over(cls, devices: Sequence[Any], method: Method, num_tasks: int) -> "Shards":
        """Return the division of a bank among devices."""
        return cls(Mesh(np.asarray(devices), (_AXIS,)), method, num_tasks)

    @property
    def share(self) -> int:
        """Number of bytes that each device holds for each weight."""
        return -(-self.num_tasks // (8 * self.mesh.size))

    def place(self, bank: Bank) -> Bank:
        """Return a bank whose bytes are on the devices of their tasks.

        A process reads only the bytes of its own devices, so leaves may be memory-mapped.

        Args:
            bank: leaves of shape `(*weight.shape, ceil(num_tasks / 8))`; if devices belong to several processes, NumPy
                arrays.
        """

        def placed(leaf: Any) -> Array:
            leaf = np.asanyarray(leaf)

            def part(index: Any) -> np.ndarray:
                found = np.asarray(leaf[index])  # fewer bytes than a share at the end of the bank
                return np.pad(found, [*[(0, 0)] * (leaf.ndim - 1), (0, self.share - found.shape[-1])])

            shape = (*leaf.shape[:-1], self.share * self.mesh.size)
            return jax.make_array_from_callback(shape, NamedSharding(self.mesh, _on_last(leaf)), part)

        return jax.tree.map(placed, bank)

    def replicate(self, tree: PyTree[Any]) -> PyTree[Any]:
        """Copy arrays, which are the same in all processes, to every device."""
        sharding = NamedSharding(self.mesh, P())
        if sharding.is_fully_addressable:
            return jax.device_put(tree, sharding)

        def copied(leaf: Any) -> Array:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(copied(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
            leaf = np.asarray(leaf)
            return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

        return jax.tree.map(copied, tree)

    def unpack(self, bank: Bank, task: int | Int[Array | np.ndarray, ""]) -> Masks:
        """Return the mask of one task, which its device sends to the others.

        Args:
            bank: the bank.
            task: the number of the task. A task in a JAX array, which may be traced, is not checked.

        Raises:
            IndexError: if the task lies outside the bank.
        """
        if not isinstance(task, jax.Array) and not 0 <= task < self.num_tasks:
            raise IndexError(f"task {task} is not in this bank of {self.num_tasks} tasks")

        return self._unpack(bank, jnp.asarray(task, jnp.int32))

    @partial(jax.jit, static_argnums=0)  # outside of compiled programs, `shard_map` would compile each operation
    def _unpack(self, bank: Bank, task: Int[Array, ""]) -> Masks:
        def on_device(bank: Bank, task: Array) -> PyTree[Array]:
            number, is_here = self._numbers_here(task)
            mask = self.method.unpack(bank, number)
            return jax.lax.psum(jax.tree.map(lambda leaf: (leaf * is_here).astype(jnp.uint8), mask), _AXIS)

        mask = self._map(on_device, (_specs(bank), P()))(bank, task)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), mask)

    def count(self, weights: Masks, bank: Bank, chosen: Bool[Array, "batch tasks"]) -> Masks:
        """Return the sums of the chosen tasks' factors; see `Method.count`. For masks they are exact."""

        def on_device(weights: Masks, bank: Bank, chosen: Array) -> Masks:
            return jax.lax.psum(self.method.count(weights, bank, chosen), _AXIS)

        return self._map(on_device, (P(), _specs(bank), P(None, _AXIS)))(weights, bank, self._padded(chosen))

    def superpose(self, weights: Masks, bank: Bank, alphas: Float[Array, "batch tasks"]) -> Masks:
        """Return the factors of superpositions of all tasks; see `Method.superpose`."""

        def on_device(weights: Masks, bank: Bank, alphas: Array) -> Masks:
            return jax.lax.psum(self.method.superpose(weights, bank, alphas), _AXIS)

        return self._map(on_device, (P(), _specs(bank), P(None, _AXIS)))(weights, bank, self._padded(alphas))

    def project(self, bank: Bank, gradients: Masks) -> Float[Array, "batch tasks"]:
        """Return the inner products of gradients with the factor of every task; see `Method.project`."""

        def on_device(bank: Bank, gradients: Masks) -> Array:
            products = self.method.project(bank, gradients, 8 * self.share)
            return jax.lax.all_gather(products, _AXIS, axis=1, tiled=True)

        return self._map(on_device, (_specs(bank), P()))(bank, gradients)[:, : self.num_tasks]

    def project_chosen(
        self, rows: UInt8[Array, "rows bytes"], chosen: Bool[Array, " rows"], columns: Columns
    ) -> Float[Array, "batch 8 bytes"]:
        """Return the products of gradients with the chosen rows of a leaf; see `parts.project_chosen`."""

        def on_device(rows: Array, chosen: Array, columns: Columns) -> Array:
            products = parts.project_chosen(rows, chosen, columns)
            return jax.lax.all_gather(products, _AXIS, axis=2, tiled=True)

        return self._map(on_device, (_on_last(rows), P(), P()))(rows, chosen, columns)

    def project_to(
        self, rows: UInt8[Array, "rows bytes"], tasks: Int[Array, " tasks"], columns: Columns
    ) -> Float[Array, "batch tasks"]:
        """Return the products of gradients with the masks of some tasks; see `parts.project_to`."""

        def on_device(rows: Array, tasks: Array, columns: Columns) -> Array:
            numbers, is_here = self._numbers_here(tasks)
            return jax.lax.psum(parts.project_to(rows, numbers, columns) * is_here, _AXIS)

        return self._map(on_device, (_on_last(rows), P(), P()))(rows, tasks, columns)

    def _map(self, function: Callable[..., Any], in_specs: Any) -> Callable[..., Any]:
        """Map a function over the devices; its results must be the same on all of them."""
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=P(), check_vma=False)

    def _padded(self, values: Array) -> Array:
        """Return values of all tasks with zeros for the tasks that the bytes of all devices hold beyond them."""
        return jnp.pad(values, [(0, 0), (0, 8 * self.share * self.mesh.size - self.num_tasks)])

    def _numbers_here(self, tasks: Int[Array, "*tasks"]) -> tuple[Int[Array, "*tasks"], Bool[Array, "*tasks"]]:
        """Return the numbers of tasks among those of this device, and whether it has them; else a valid number."""
        numbers = tasks - jax.lax.axis_index(_AXIS) * 8 * self.share
        return jnp.clip(numbers, 0, 8 * self.share - 1), (numbers >= 0) & (numbers < 8 * self.share)


def _on_last(leaf: Any) -> P:
    """Return the specification of an array that is sharded along its last axis."""
    return P(*[None] * (leaf.ndim - 1), _AXIS)


def _specs(bank: Bank) -> PyTree[P]:
    return jax.tree.map(_on_last, bank)
