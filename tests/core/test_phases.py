"""Hooks of methods in the training of a task: phases, values that are not trained, frozen weights, penalties."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.training import BENCHMARK, DATASET, DENSE
from supsup_jax import UserError, optimizers, training
from supsup_jax.methods import Method, Phase, UpperBound


@dataclass(frozen=True)
class Offset(Method):
    """Effective weights W + p; parameters have a count and a mask that are not trained."""

    two: bool = False
    penalised: float = 0.0
    stores: ClassVar[str] = "offsets"

    def trains_weights(self, task):
        return True

    def phases(self, task):
        first = Phase(False, True, 1.0)
        return (first, Phase(True, False, 2.0)) if self.two else (Phase(True, True),)

    def init(self, key, weights, carry=None):
        frozen = jax.tree.map(lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape) % 2 == 0, weights)
        return {"offset": jax.tree.map(jnp.zeros_like, weights), "frozen": frozen, "phases": jnp.int32(1)}

    def is_trained(self, params):
        return {name: jax.tree.map(lambda _, name=name: name == "offset", part) for name, part in params.items()}

    def begin_phase(self, phase, weights, params):
        return weights, params | {"phases": params["phases"] + phase}

    def update_share(self, weights, params, phase):
        return jax.tree.map(lambda frozen: jnp.where(frozen, 0.0, 1.0), params["frozen"])

    def penalty(self, weights, params, moment):
        total = sum((jnp.square(leaf).sum() for leaf in jax.tree.leaves(params["offset"])), jnp.float32(0))
        return self.penalised * total if self.penalised else None

    def finalize(self, params, weights):
        return params

    def effective_weights(self, weights, adapter):
        return jax.tree.map(jnp.add, weights, adapter["offset"])


def learn(method, optimizer, steps=9):
    weights, stats = DENSE.init(training.weights_key(1))
    learners = [
        training.Learner(DENSE, method, optimizer, phase, number) for number, phase in enumerate(method.phases(0))
    ]
    (task,) = BENCHMARK.tasks(DATASET, 1, [0])
    learned = training.train_task(
        learners,
        task,
        training.task_key(1, 0),
        shared=training.Shared(weights, stats, DATASET.train),
        benchmark=BENCHMARK,
        steps=steps,
        batch_size=16,
        validate=lambda *_: jnp.float32(0),
        carry={},
    )
    return weights, jax.device_get(learned)


@pytest.mark.parametrize("optimizer", [optimizers.SGD(0.1, 0.9, 0.5), optimizers.Adam(1e-2, 0.5)])
def test_frozen_entries_and_untrained_values_keep_their_values(optimizer):
    before, learned = learn(Offset(), optimizer)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(learned.weights), strict=True):
        frozen = np.arange(old.size).reshape(old.shape) % 2 == 0
        np.testing.assert_array_equal(new[frozen], np.asarray(old)[frozen])
        assert (new[~frozen] != np.asarray(old)[~frozen]).all()
    assert learned.adapter["phases"] == 1
    assert all(leaf.any() for leaf in jax.tree.leaves(learned.adapter["offset"]))


def test_phases_have_their_share_of_the_updates_and_train_what_they_say():
    before, learned = learn(Offset(two=True), optimizers.SGD(0.1))
    _, first = learn(Offset(two=True), optimizers.SGD(0.1), steps=2)  # one update for each phase
    assert learned.adapter["phases"] == first.adapter["phases"] == 2
    changed = jax.tree.map(lambda old, new: bool((old != new).any()), jax.device_get(before), learned.weights)
    assert all(jax.tree.leaves(changed))


def test_the_bounds_of_phases_share_all_steps():
    learners = [
        training.Learner(DENSE, Offset(two=True), optimizers.SGD(), phase) for phase in Offset(two=True).phases(0)
    ]
    assert training.phase_bounds(learners, 9) == [(0, 3), (3, 9)]
    assert training.phase_bounds(learners, 2) == [(0, 1), (1, 2)]
    with pytest.raises(UserError, match="must be at least 2, one for each phase"):
        training.phase_bounds(learners, 1)


def test_a_penalty_is_part_of_the_loss():
    _, free = learn(Offset(), optimizers.SGD(0.1))
    _, penalised = learn(Offset(penalised=10.0), optimizers.SGD(0.1))
    norms = [
        sum(np.square(leaf).sum() for leaf in jax.tree.leaves(learned.adapter["offset"]))
        for learned in (free, penalised)
    ]
    assert norms[1] < 0.5 * norms[0] and penalised.loss[0] > free.loss[0]


@dataclass(frozen=True)
class Moments(Offset):
    """Adds the share of the phase's updates that were made to the loss, and keeps the weights of the end."""

    counts: bool = True

    def penalty(self, weights, params, moment):
        return 100.0 * (moment.phase + moment.share) if self.counts else None

    def finalize(self, params, weights):
        return params | {"last": weights}


def test_a_method_knows_how_much_of_a_phase_is_done():
    _, without = learn(Moments(two=True, counts=False), optimizers.SGD(0.1), steps=6)
    _, learned = learn(Moments(two=True), optimizers.SGD(0.1), steps=6)
    # The means over the two updates of the first phase, and over the four of the second one.
    np.testing.assert_allclose(learned.loss - without.loss, [100 * (0 + 1 / 4), 100 * (1 + 3 / 8)], rtol=1e-4)


def test_finalize_sees_the_weights_at_the_end_of_the_task():
    before, learned = learn(Moments(counts=False), optimizers.SGD(0.1))
    jax.tree.map(np.testing.assert_array_equal, learned.adapter["last"], learned.weights)
    assert any((old != new).any() for old, new in zip(*map(jax.tree.leaves, (before, learned.weights)), strict=True))


def test_methods_without_hooks_train_in_one_phase():
    assert UpperBound().phases(3) == (Phase(False, True),)
    assert UpperBound().update_share({}, {}, 0) is None
