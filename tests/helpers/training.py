"""Tasks of a small data set, and their training."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from helpers.toys import ConvNet, small_dataset
from supsup_jax import classification, methods, networks, optimizers, training
from supsup_jax.data import PermutedMNIST
from supsup_jax.system import backend, devices

DATASET = small_dataset()
BENCHMARK = PermutedMNIST.of(DATASET)
DENSE = networks.LeNet(features=8, width=0.1, input_shape=(4, 4, 1))
CONV = networks.Network(ConvNet(), input_shape=(4, 4, 1))


def learn(numbers: Sequence[int], **settings: Any) -> training.Learned:
    """Learn tasks of `BENCHMARK`; results are cached per process.

    Args:
        numbers: task numbers.
        settings: `net`, `steps`, `seed`, `method`, and `capacity`; for the last one, see `devices.over_tasks`.
    """
    return _learned(tuple(numbers), backend.is_accelerator(), **settings)


@cache
def _learned(numbers, _, net=DENSE, steps=60, seed=1, method=None, capacity=None):
    method = method or methods.SupSup()

    def learn_task(shared, described):
        weights, stats, train, test = shared
        validate = partial(classification.accuracy, net, BENCHMARK, test)
        learner = training.Learner(net, method, optimizers.RMSprop(1e-2))
        shared = training.Shared(weights, stats, train)
        options = {"benchmark": BENCHMARK, "steps": steps, "batch_size": 16, "validate": validate}
        return training.train_task(learner, *described, shared=shared, **options)

    weights, stats = net.init(training.weights_key(seed))
    keys = jax.vmap(lambda task: training.task_key(seed, task))(np.asarray(numbers))
    shared = devices.replicate((weights, stats, DATASET.train, DATASET.test))
    return devices.over_tasks(learn_task)(shared, (BENCHMARK.tasks(DATASET, seed, numbers), keys), capacity)
