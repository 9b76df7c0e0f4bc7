"""Recovery of a task's mask from a Hopfield memory, given unlabelled batches of the task (Section 3.5 of the paper).

The state starts as the mean of all stored patterns. Gradient descent first minimises the entropy of the network's
output, which leads towards the task's mask, and later the memory's energy, which leads to a stored pattern.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from supsup_jax import masks
from supsup_jax.arguments import Part
from supsup_jax.checks import check_count, check_number
from supsup_jax.inference.objectives import entropy
from supsup_jax.methods import Adapter, HopSupSup, Memory, Method, hopsupsup
from supsup_jax.networks import Network, Weights
from supsup_jax.optimizers import SGD
from supsup_jax.system import numerics


class Path(NamedTuple):
    """The path of a recovery, at the start of each step.

    Attributes:
        states: which gains are 1.
        entropy: mean entropy of the batch's outputs, in nats.
        energy: the memory's energy, summed over layers.
    """

    states: PyTree[Bool[Array, "steps units"]]
    entropy: Float[Array, " steps"]
    energy: Float[Array, " steps"]


@dataclass(frozen=True)
class Recovery(Part):
    """Recovery of a mask from a memory; by default as in the original.

    For about one task in 20, the original ends between masks, or at another task's mask: where the mean of all patterns
    is clipped to ±1, the gradient of the entropy can point at another mask, or at different masks in different layers,
    and later only the energy counts. Other learning rates and orders of the batches fix only some of these tasks. With
    `through_memory` and several `attempts`, all of 60 tasks were recovered, with 2,048 units per layer:
    `through_memory` leads a recovery to one whole stored mask in a few steps, and of several `attempts` the one with
    the least entropy is the task's own.

    Attributes:
        gamma: weight of the memory's energy.
        optimizer: the optimiser of the state.
        through_memory: whether to multiply the gradient of the entropy by the memory, and scale it to its original
            length. It then moves the state only along stored masks: the product is the sum of the masks, each weighted
            by the derivative of the entropy with respect to its α.
        attempts: number of masks to recover, each from a memory without the masks found before; the one with the least
            entropy is returned.
    """

    gamma: float = 1.5e-3
    optimizer: SGD = field(default_factory=lambda: SGD(500.0, 0.9, 1e-4))
    through_memory: bool = False
    attempts: int = 1

    kind: ClassVar[str] = "search"

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma)
        check_count("attempts", self.attempts)

    def serves(self, method: Method) -> bool:
        """Return whether the method stores its tasks in a memory."""
        return method.recovers

    def for_classes(self, num_classes: int) -> "Recovery":
        """Return this recovery unchanged, since its objective, the entropy, covers all outputs."""
        return self

    @numerics.with_fixed_flags
    def __call__(
        self,
        net: Network,
        weights: Weights,
        memory: Memory,
        batches: Float[Array, "steps batch height width channels"],
        count: int | Int[Array, ""] | None = None,
    ) -> tuple[PyTree[Float[Array, " units"] | None], Path]:
        """Recover the mask of the task of all images, in one step per batch.

        At step b of B, counted from 1, the loss is (1 - b/B) entropy + gamma (b/B) energy. States are the sign, ±1,
        with a straight-through gradient.

        Args:
            net: the network, whose batch norms use the statistics of each batch.
            weights: its frozen weights.
            memory: the memory of the masks of all tasks.
            batches: normalised images.
            count: the number of batches to use, from the first; by default all. The path has a step for every batch.

        Returns:
            The mask, and the path of the recovery.
        """
        count = jnp.asarray(len(batches) if count is None else count)
        numbers = jnp.arange(1, len(batches) + 1)

        def uncertainty(mask: Adapter, images: Array) -> Array:
            # Signs decide, so the faster, rounded products of accelerators could lead to a different mask.
            with jax.default_matmul_precision("highest"):
                logits, _ = net.apply(HopSupSup().effective_weights(weights, mask), {}, images, train=True)
            return entropy(logits).mean()

        def attempt(memory: Memory, _: None) -> tuple[Memory, tuple[Array, Adapter, Path]]:
            mask, path = self._descend(uncertainty, memory, batches, count)
            remaining = jax.lax.map(lambda images: uncertainty(mask, images), batches)
            uncertain = jnp.where(numbers <= count, remaining, 0).sum() / count
            return _without(memory, mask), (uncertain, mask, path)

        if self.attempts == 1:
            return self._descend(uncertainty, memory, batches, count)
        _, (uncertain, found, paths) = jax.lax.scan(attempt, memory, length=self.attempts)
        best = uncertain.argmin()
        return jax.tree.map(lambda leaf: leaf[best], (found, paths))

    def _descend(
        self, uncertainty: Callable[[Adapter, Array], Array], memory: Memory, batches: Array, count: Array
    ) -> tuple[Adapter, Path]:
        """Run one recovery, from the mean of the memory's patterns."""
        transformation = self.optimizer.transformation()

        def energy(scores: PyTree[Any]) -> Array:
            mask = masks.threshold(scores)
            energies = jax.tree.map(lambda matrix, on: hopsupsup.energy(matrix, 2 * on - 1), memory.matrices, mask)
            return jax.tree.reduce(jnp.add, energies)

        def step(carry: tuple[Any, Any], batch: tuple[Array, Array]) -> tuple[tuple[Any, Any], Path]:
            (scores, state), (number, images) = carry, batch
            done = number / count
            value, towards_task = jax.value_and_grad(lambda scores: uncertainty(masks.threshold(scores), images))(
                scores
            )
            if self.through_memory:
                towards_task = jax.tree.map(_through, memory.matrices, towards_task)
            level, towards_stored = jax.value_and_grad(energy)(scores)
            gradient = jax.tree.map(
                lambda task, stored: (1 - done) * task + self.gamma * done * stored, towards_task, towards_stored
            )
            update, next_state = transformation.update(gradient, state, scores)
            after = jax.tree.map(jnp.add, scores, update), next_state
            latest = jax.tree.map(lambda new, old: jnp.where(number <= count, new, old), after, carry)
            return latest, Path(jax.tree.map(lambda leaf: leaf >= 0, scores), value, level)

        start = jax.tree.map(lambda total: total / jnp.asarray(memory.num_tasks, total.dtype), memory.total)
        numbers = jnp.arange(1, len(batches) + 1)
        (scores, _), path = jax.lax.scan(step, (start, transformation.init(start)), (numbers, batches))
        return masks.threshold(scores), path


def _through(matrix: Array, gradient: Array) -> Array:
    """Return the gradient projected onto stored patterns, scaled to its original length."""
    along = jnp.matmul(matrix, gradient, precision="highest")
    return along * (jnp.linalg.norm(gradient) / jnp.maximum(jnp.linalg.norm(along), 1e-30))


def _without(memory: Memory, mask: Adapter) -> Memory:
    """Return the memory with a pattern projected out of it."""

    def matrix_without(matrix: Array, mask: Array) -> Array:
        x = 2 * mask - 1
        matrix = matrix - jnp.outer(x, x @ matrix) / len(x)
        return matrix - jnp.outer(matrix @ x, x) / len(x)

    def total_without(total: Array, mask: Array) -> Array:
        x = 2 * mask - 1
        return total - x * (total @ x) / len(x)

    return Memory(
        jax.tree.map(matrix_without, memory.matrices, mask),
        jax.tree.map(total_without, memory.total, mask),
        jnp.maximum(memory.num_tasks - 1, 1),
    )
