"""Initial base weights of a run: drawn from its seed, given by the user, or stored in its checkpoints."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from supsup_jax.components import stored as stored_initializer
from supsup_jax.data import Dataset
from supsup_jax.experiment import Experiment
from supsup_jax.networks import Network, Stats, Weights, pretrained
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.description import SHA256
from supsup_jax.runs.steps import digest_of
from supsup_jax.system import hosts, numerics
from supsup_jax.training import weights_key


class Initial(NamedTuple):
    """Initial base weights and statistics.

    Attributes:
        weights: base weights.
        stats: initial batch-norm statistics of a task.
        is_stored: whether checkpoints contain them, because the seed does not determine them.
        sha256: checksum of given weights; `None` for other weights.
    """

    weights: Weights
    stats: Stats
    is_stored: bool = False
    sha256: str | None = None


Start = Callable[[Network], Initial]
"""Function that returns the initial weights of a network."""


def start_of(experiment: Experiment) -> Start:
    """Return the function that returns the weights with which an experiment begins.

    Raises:
        UserError: by the function, if given weights cannot be read or do not fit the network.
    """
    if experiment.network.initializer is stored_initializer:  # an imported run
        return stored
    if experiment.base_weights is not None:
        return given(experiment.base_weights, experiment.seed)
    return lambda net: Initial(*net.init(weights_key(experiment.seed)))


def check(experiment: Experiment, dataset: Dataset) -> None:
    """Check that the file of given base weights can be read and fits the network, before a run is created.

    Raises:
        UserError: if it cannot be read, or does not fit.
    """
    if experiment.base_weights is not None:
        net = experiment.network.for_images(dataset.image_shape)
        pretrained.load_weights(experiment.base_weights, net, weights_key(experiment.seed))


def start_in(checkpoints: Checkpoints, experiment: Experiment) -> Start:
    """Return the same for a run in a folder, whose checkpoints replace a file that no longer exists.

    Args:
        checkpoints: checkpoints of the folder; there may be none.
        experiment: the experiment.
    """
    path = experiment.base_weights

    def checksum() -> str | None:
        records = [] if path is None or os.path.exists(path) else checkpoints.records()
        return records[0].get(SHA256) if records else None

    sha256 = hosts.broadcast(checksum)
    return start_of(experiment) if sha256 is None else lambda net: stored(net, sha256)


def stored(net: Network, sha256: str | None = None) -> Initial:
    """Return zeros in place of weights that checkpoints contain.

    Args:
        net: the network.
        sha256: checksum of given weights; `None` for an imported run.
    """
    weights, _ = jax.eval_shape(net.init, numerics.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights)
    return Initial(zeros, net.init_stats(), True, sha256)


def given(source: Any, seed: int) -> Start:
    """Return the function that returns given weights, read by the first host.

    Args:
        source: a path or a pytree, as for `networks.load_weights`.
        seed: seed of the last layer, if that is drawn.
    """

    def start(net: Network) -> Initial:
        key, digests = weights_key(seed), []

        def load() -> tuple[Weights, Stats]:
            arrays = pretrained.arrays_of(source)
            digests.append(digest_of(arrays))
            return pretrained.fit(arrays, net, key, pretrained.shown(source))

        weights, stats = hosts.broadcast_arrays(load, jax.eval_shape(net.init, key))
        return Initial(weights, stats, True, hosts.broadcast(lambda: digests[0]))

    return start
