"""Estimates of the duration of a run from a few training steps, for networks not yet timed on this machine."""

import sys
import time
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax

from supsup_jax.experiment import Experiment
from supsup_jax.networks import Network
from supsup_jax.paper.planning import Rates
from supsup_jax.system import backend, numerics

_STEPS = 3

# Image shape, and numbers of training and test images per task; shape None if the experiment sets the image size.
_SIZES: dict[str, tuple[tuple[int, ...] | None, int, int]] = {
    "mnist": ((28, 28, 1), 60_000, 10_000),
    "cifar100": ((32, 32, 3), 2_500, 500),
    "imagenet": (None, 13_000, 500),
    "digits": ((8, 8, 1), 1_438, 359),
}

# Time of a forward pass, relative to a training step.
_FORWARD = 1 / 3

# Seconds per weight and mask of one inference of a task (order of magnitude).
_PER_WEIGHT_ON_CPU, _PER_WEIGHT_ON_GPU = 1e-10, 1e-12

# Number of tasks of a small network that are trained in parallel on an accelerator.
_SIDE_BY_SIDE = 16


def calibrated_rates(experiment: Experiment) -> Rates:
    """Estimate the rates of an experiment from a few training steps of its network on random images.

    This takes seconds, and the estimate is rough. The measured times of the first run replace it.
    """
    shape, train_size, test_size = _SIZES[experiment.tasks.source.name]
    size = getattr(experiment.tasks.source, "image_size", 0)
    shape = shape or (size, size, 3)
    is_large = shape[0] > 64
    training, test_batch_size = experiment.training, experiment.scenario.test_batch_size
    # For large images, a small batch is timed; the time of a step is proportional to the batch size.
    images = min(training.batch_size, 4) if is_large else training.batch_size
    copies = 1
    if not experiment.in_turn and not is_large:
        copies = _SIDE_BY_SIDE if backend.is_accelerator() else backend.cores()
    net = experiment.network.for_images(shape)
    step = _seconds_of_a_step(net, images, copies) * training.batch_size / images
    updates = training.steps
    if training.epochs is not None:
        updates = training.epochs * -(-train_size // training.batch_size)
    batches = -(-test_size // test_batch_size)
    pair = 0.0
    if experiment.scenario.infers:
        weights, _ = jax.eval_shape(net.init, numerics.key(0))
        size = sum(leaf.size for leaf in jax.tree.leaves(weights))
        per_weight = _PER_WEIGHT_ON_GPU if backend.is_accelerator() else _PER_WEIGHT_ON_CPU
        pair = (batches + getattr(experiment.scenario, "images_per_task", 0)) * size * per_weight
    return Rates(updates * step, batches * _FORWARD * step * test_batch_size / training.batch_size, pair)


@cache
@numerics.with_fixed_flags
def _seconds_of_a_step(net: Network, images: int, copies: int) -> float:
    """Return the seconds of a training step per task, if this number of tasks is trained in parallel."""
    print(f"timing a few training steps of {type(net).__name__}", file=sys.stderr, flush=True)
    weights, stats = net.init(numerics.key(0))
    inputs = jax.random.normal(numerics.key(1), (images, *net.input_shape))
    labels = jnp.zeros(images, jnp.int32)

    def step(weights: Any) -> Any:
        def loss(weights: Any) -> jax.Array:
            logits, _ = net.apply(weights, stats, inputs, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.tree.map(lambda leaf, slope: leaf - 1e-3 * slope, weights, jax.grad(loss)(weights))

    several = jax.jit(jax.vmap(step))
    state = jax.block_until_ready(several(jax.tree.map(lambda leaf: jnp.stack([leaf] * copies), weights)))
    start = time.perf_counter()
    for _ in range(_STEPS):
        state = several(state)
    jax.block_until_ready(state)
    return (time.perf_counter() - start) / _STEPS / copies
