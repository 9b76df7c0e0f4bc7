"""The compiled functions that learn an experiment's tasks; the same ones for the same parts."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from supsup_jax import evaluation
from supsup_jax.errors import UserError
from supsup_jax.experiment import Parts
from supsup_jax.optimizers import Optimizer
from supsup_jax.system import devices
from supsup_jax.training import Learned, Learner, Shared, train_task


@cache
def side_by_side(parts: Parts, batch_size: int, convolutions: bool) -> Callable[..., Learned]:
    """The function that learns a chunk of independent tasks, as `devices.over_tasks` maps it.

    Args:
        parts: what the experiment is made of.
        batch_size: images an update.
        convolutions: whether the network has any.
    """
    learn = _learner(parts, parts.optimizer, False, batch_size)
    # What independent tasks leave is what they found.
    return devices.over_tasks(lambda shared, one: learn(shared, one)._replace(carry=None), convolutions=convolutions)


@cache
def alone(parts: Parts, batch_size: int, trains_weights: bool) -> Callable[..., Learned]:
    """The function that learns one task in turn, perhaps with the shared weights.

    Args:
        parts: what the experiment is made of.
        batch_size: images an update.
        trains_weights: whether the shared weights are learned with it.
    """
    optimizer = parts.weights_optimizer if trains_weights else parts.optimizer
    return jax.jit(_learner(parts, optimizer, trains_weights, batch_size))


def _learner(
    parts: Parts, optimizer: Optimizer, trains_weights: bool, batch_size: int
) -> Callable[[Any, Any], Learned]:
    """The function that learns one task, given what tasks share and what describes it."""

    def learn(shared: Any, one: Any) -> Learned:
        weights, stats, train, test, carry = shared
        task, key = one
        # A network of gains answers by the statistics of the batch, so batches are as large as in its evaluation.
        images_at_once = parts.protocol.batch_size if parts.method.recovers else None
        validate: Any = partial(evaluation.accuracy, parts.net, parts.benchmark, test, images_at_once=images_at_once)
        if not parts.benchmark.test_size:
            validate = _nothing_to_validate_on
        return train_task(
            Learner(parts.net, parts.method, optimizer, trains_weights),
            task,
            key,
            shared=Shared(weights, stats, train),
            benchmark=parts.benchmark,
            steps=parts.steps,
            batch_size=batch_size,
            validate=validate,
            carry=carry,
        )

    return learn


def divergence(parts: Parts, task: int, step: int, loss: float) -> UserError:
    """What is raised where the training of a task diverges.

    Args:
        parts: what the experiment is made of.
        task: its number.
        step: the update at which it did, counted from 0.
        loss: its loss then.
    """
    setting, optimizer = "--learning-rate", parts.optimizer
    if parts.method.trains_weights(task):
        setting, optimizer = "--weights-learning-rate", parts.weights_optimizer
    return UserError(
        f"task {task} diverged: at step {step + 1} of {parts.steps} its loss is {loss:g}; give a smaller "
        f"{setting} than {optimizer.learning_rate:g} (nothing of this task is kept, but all of those before it)"
    )


def _nothing_to_validate_on(*_: Any) -> jax.Array:
    return jnp.float32(jnp.nan)
