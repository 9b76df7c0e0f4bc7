"""The optimisers of the experiments, as PyTorch defines them, and learning rate schedules."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from supsup_jax.arguments import Part
from supsup_jax.checks import check_number

if TYPE_CHECKING:
    import optax  # importing it takes a tenth of the time of `import supsup_jax`


@dataclass(frozen=True)
class Warmup:
    """Factor on the learning rate that grows linearly over the first epochs, and then stays 1.

    The factor changes once per epoch: in epoch e of W warm-up epochs, counted from 0, it is (e + 1) / W.

    Attributes:
        epochs: number of warm-up epochs.
        steps_per_epoch: number of updates per epoch.
    """

    epochs: int
    steps_per_epoch: int

    def __call__(self, step: Any) -> Float[Array, ""]:
        """Return the factor of an update, given its number from 0."""
        epoch = jnp.asarray(step) // self.steps_per_epoch
        return jnp.minimum((epoch + 1) / max(self.epochs, 1), 1.0)


@dataclass(frozen=True)
class Cosine:
    """Factor on the learning rate that follows a cosine from 1 to 0 and changes once per epoch.

    In epoch e of E, counted from 0, it is (1 + cos(π e / E)) / 2. With W warm-up epochs, it is (e + 1) / W during the
    warm-up, and the cosine spans the remaining epochs.

    Attributes:
        epochs: number of epochs of the whole training, including the warm-up.
        steps_per_epoch: number of updates per epoch.
        warmup: number of epochs in which the learning rate grows linearly.
    """

    epochs: int
    steps_per_epoch: int
    warmup: int = 0

    def __call__(self, step: Any) -> Float[Array, ""]:
        """Return the factor of an update, given its number from 0."""
        epoch = (jnp.asarray(step) // self.steps_per_epoch).astype(jnp.float32)
        cosine = (1 + jnp.cos(jnp.pi * (epoch - self.warmup) / (self.epochs - self.warmup))) / 2
        return jnp.where(epoch < self.warmup, Warmup(self.warmup, self.steps_per_epoch)(step), cosine)


Schedule = Warmup | Cosine


def _scheduled(learning_rate: float, schedule: Schedule | None) -> Any:
    return learning_rate if schedule is None else lambda step: learning_rate * schedule(step)


def _promoting(transformation: "optax.GradientTransformation") -> "optax.GradientTransformation":
    """Wrap a transformation so that it works with `jax_numpy_dtype_promotion="strict"`.

    Under that flag optax's bias correction fails, since it raises a float to the power of an integer.
    """
    import optax

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return transformation.update(updates, state, params)

    return optax.GradientTransformation(transformation.init, update)


class Optimizer(Part, ABC):
    """Base class of optimisers: frozen dataclasses with at least these fields.

    Attributes:
        learning_rate: learning rate.
        schedule: factor on the learning rate for each update; by default 1.
    """

    kind: ClassVar[str] = "optimizer"

    derived: ClassVar[tuple[str, ...]] = ("schedule", "decay", "epsilon")
    """Fields that are not settings of an experiment."""

    learning_rate: float
    schedule: Schedule | None

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate)
        for name in ("weight_decay", "momentum"):
            check_number(name, getattr(self, name, 0.0), allow_zero=True)

    @abstractmethod
    def transformation(self) -> "optax.GradientTransformation":
        """Return the optimiser as an optax transformation."""


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop without momentum: epsilon outside the root, and no bias correction.

    Attributes:
        learning_rate: learning rate; 1e-4 in the MNIST experiments.
        decay: decay rate of the running mean of squared gradients (PyTorch's alpha).
        epsilon: added to the root of that mean.
        schedule: factor on the learning rate for each update; by default 1.
    """

    learning_rate: float = 1e-4
    decay: float = 0.99
    epsilon: float = 1e-8
    schedule: Schedule | None = None

    def transformation(self) -> "optax.GradientTransformation":
        """Return optax's RMSprop with these settings."""
        import optax

        return optax.rmsprop(
            _scheduled(self.learning_rate, self.schedule), decay=self.decay, eps=self.epsilon, eps_in_sqrt=False
        )


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with weight decay added to the gradient (L2).

    Attributes:
        learning_rate: learning rate.
        weight_decay: factor on all trained values, including scores; 1e-4 in the original's experiments.
        schedule: factor on the learning rate for each update; by default 1.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    schedule: Schedule | None = None

    def transformation(self) -> "optax.GradientTransformation":
        """Return optax's Adam with these settings."""
        import optax

        learning_rate = _scheduled(self.learning_rate, self.schedule)
        return _promoting(optax.chain(optax.add_decayed_weights(self.weight_decay), optax.adam(learning_rate)))


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent with momentum, and weight decay added to the gradient (L2).

    Attributes:
        learning_rate: learning rate.
        momentum: factor on the previous update.
        weight_decay: factor on all trained values, including scores; 1e-4 in the original's experiments.
        schedule: factor on the learning rate for each update; by default 1.
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule | None = None

    def transformation(self) -> "optax.GradientTransformation":
        """Return optax's SGD with these settings."""
        import optax

        learning_rate = _scheduled(self.learning_rate, self.schedule)
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay), optax.sgd(learning_rate, momentum=self.momentum)
        )
