"""A task's mask out of a Hopfield memory, from unlabelled batches of the task (Section 3.5 of the paper).

The state starts as the mean of all stored patterns. Gradient descent makes the entropy of the network's output small
at first, which points at the task's mask, and the memory's energy later, which ends at a stored pattern.
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
    """What a recovery went through, at the start of each step.

    Attributes:
        states: whether each gain was on.
        entropy: mean entropy of the batch's outputs, in nats.
        energy: the memory's energy, summed over layers.
    """

    states: PyTree[Bool[Array, "steps units"]]
    entropy: Float[Array, " steps"]
    energy: Float[Array, " steps"]


@dataclass(frozen=True)
class Recovery(Part):
    """How a mask is recovered: by default as the original does.

    For about one task in 20 that ends between masks, or with another task's: where the mean of all patterns is cut to
    ±1, the gradient of the entropy can point at another mask, or at different ones in different layers, and later
    only the energy counts. Other step sizes and orders of the batches mend that now and then. What did in all of 60
    tasks, with 2,048 units a layer: `through_memory` leads a recovery to one whole stored mask, in a few steps, and of
    several `attempts` the one with the least entropy is the task's own.

    Attributes:
        gamma: weight of the memory's energy.
        optimizer: changes the state.
        through_memory: whether the gradient of the entropy is multiplied by the memory, and scaled to the length that
            it had. It then moves the state along stored masks only: the product is their sum, each weighted with the
            derivative of the entropy with respect to its α.
        attempts: masks to recover, each from a memory without those found before; the one with the least entropy is
            taken.
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
        """Methods whose tasks are stored in a memory."""
        return method.recovers

    def for_classes(self, num_classes: int) -> "Recovery":
        """The same: its objective, the entropy, is of all outputs."""
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
        """Recovers the mask of the task to which all images belong, one step a batch.

        At step b of B, counted from 1, the loss is (1 - b/B) entropy + gamma (b/B) energy. States are ±1 by the sign,
        straight through.

        Args:
            net: the network, whose batch norms use the statistics of each batch.
            weights: its frozen weights.
            memory: holds the masks of all tasks.
            batches: normalised images.
            count: how many of the batches count, from the first; by default all. The path then holds more steps.

        Returns:
            The mask, and how it came about.
        """
        count = jnp.asarray(len(batches) if count is None else count)
        numbers = jnp.arange(1, len(batches) + 1)

        def uncertainty(mask: Adapter, images: Array) -> Array:
            # Signs decide, so an accelerator's faster, rounded products would lead elsewhere.
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
        """One recovery, from the mean of what the memory holds."""
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
    """The gradient along stored patterns, as long as it was."""
    along = jnp.matmul(matrix, gradient, precision="highest")
    return along * (jnp.linalg.norm(gradient) / jnp.maximum(jnp.linalg.norm(along), 1e-30))


def _without(memory: Memory, mask: Adapter) -> Memory:
    """The memory with a pattern projected out of it."""

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
