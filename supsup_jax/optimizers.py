"""The optimisers of the experiments, each as PyTorch defines it, and the schedule of their step sizes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from supsup_jax.arguments import Part
from supsup_jax.checks import check_number

if TYPE_CHECKING:
    import optax  # takes a tenth of the time of `import supsup_jax`


@dataclass(frozen=True)
class Warmup:
    """The share of the step size that an update has: it grows linearly over the first epochs, and then stays 1.

    It changes once an epoch: in epoch e of W epochs of warm-up, counted from 0, it is (e + 1) / W.

    Attributes:
        epochs: of the warm-up.
        steps_per_epoch: updates.
    """

    epochs: int
    steps_per_epoch: int

    def __call__(self, step: Any) -> Float[Array, ""]:
        """The share of an update, given its number, counted from 0."""
        epoch = jnp.asarray(step) // self.steps_per_epoch
        return jnp.minimum((epoch + 1) / max(self.epochs, 1), 1.0)


@dataclass(frozen=True)
class Cosine:
    """The share of the step size that an update has: a cosine from 1 to 0, stepped once an epoch.

    In epoch e of E, counted from 0, it is (1 + cos(π e / E)) / 2; with W epochs of warm-up (e + 1) / W in these, and
    the cosine over the rest.

    Attributes:
        epochs: of the whole training, the warm-up included.
        steps_per_epoch: updates.
        warmup: epochs in which the step size grows linearly.
    """

    epochs: int
    steps_per_epoch: int
    warmup: int = 0

    def __call__(self, step: Any) -> Float[Array, ""]:
        """The share of an update, given its number, counted from 0."""
        epoch = (jnp.asarray(step) // self.steps_per_epoch).astype(jnp.float32)
        cosine = (1 + jnp.cos(jnp.pi * (epoch - self.warmup) / (self.epochs - self.warmup))) / 2
        return jnp.where(epoch < self.warmup, Warmup(self.warmup, self.steps_per_epoch)(step), cosine)


Schedule = Warmup | Cosine


def _scheduled(learning_rate: float, schedule: Schedule | None) -> Any:
    return learning_rate if schedule is None else lambda step: learning_rate * schedule(step)


def _promoting(transformation: "optax.GradientTransformation") -> "optax.GradientTransformation":
    """The transformation for `jax_numpy_dtype_promotion="strict"`, under which optax's bias correction fails.

    It raises a float to the power of an integer.
    """
    import optax

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return transformation.update(updates, state, params)

    return optax.GradientTransformation(transformation.init, update)


class Optimizer(Part, ABC):
    """Base class of optimisers, frozen dataclasses with at least these fields.

    Attributes:
        learning_rate: step size.
        schedule: the share of the step size that an update has; all of it by default.
    """

    kind: ClassVar[str] = "optimizer"

    derived: ClassVar[tuple[str, ...]] = ("schedule", "decay", "epsilon")
    """Fields that are no settings of an experiment."""

    learning_rate: float
    schedule: Schedule | None

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate)
        for name in ("weight_decay", "momentum"):
            check_number(name, getattr(self, name, 0.0), from_0=True)

    @abstractmethod
    def transformation(self) -> "optax.GradientTransformation":
        """The optimiser as optax has it."""


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop without momentum: epsilon outside the root, and no bias correction.

    Attributes:
        learning_rate: step size; 1e-4 in the MNIST experiments.
        decay: of the running mean of squared gradients (PyTorch's alpha).
        epsilon: added to its root.
        schedule: the share of the step size that an update has; all of it by default.
    """

    learning_rate: float = 1e-4
    decay: float = 0.99
    epsilon: float = 1e-8
    schedule: Schedule | None = None

    def transformation(self) -> "optax.GradientTransformation":
        """The optimiser as optax has it."""
        import optax

        return optax.rmsprop(
            _scheduled(self.learning_rate, self.schedule), decay=self.decay, eps=self.epsilon, eps_in_sqrt=False
        )


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, to whose gradient the weight decay is added (L2).

    Attributes:
        learning_rate: step size.
        weight_decay: times what is trained, scores included; 1e-4 in the original's experiments.
        schedule: the share of the step size that an update has; all of it by default.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    schedule: Schedule | None = None

    def transformation(self) -> "optax.GradientTransformation":
        """The optimiser as optax has it."""
        import optax

        learning_rate = _scheduled(self.learning_rate, self.schedule)
        return _promoting(optax.chain(optax.add_decayed_weights(self.weight_decay), optax.adam(learning_rate)))


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent with momentum, to whose gradient the weight decay is added (L2).

    Attributes:
        learning_rate: step size.
        momentum: what remains of the last update.
        weight_decay: times what is trained, scores included; 1e-4 in the original's experiments.
        schedule: the share of the step size that an update has; all of it by default.
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule | None = None

    def transformation(self) -> "optax.GradientTransformation":
        """The optimiser as optax has it."""
        import optax

        learning_rate = _scheduled(self.learning_rate, self.schedule)
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay), optax.sgd(learning_rate, momentum=self.momentum)
        )
