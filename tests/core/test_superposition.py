"""Task inference from superpositions of adapters that are not masks."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from helpers import adapter
from helpers.disk import scores_on_disk, write_bank
from helpers.tiers import thorough_but
from helpers.toys import model_of, random_masks
from supsup_jax import UserError, inference, methods, networks
from supsup_jax import bank as banks

TASKS = 5


class Biased(nn.Module):
    """A convolution, a batch norm with gains, and a dense layer, with biases."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(3, (2, 2))(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(4)(nn.relu(x).reshape(len(x), -1))


def batche_model(random_weights=False):
    """Return a model of BatchE with random vectors, biases and gains, and its adapters stacked along a task axis."""
    net, method = networks.Network(Biased(), input_shape=(5, 5, 1)), methods.BatchE(random_weights)
    weights, stats = net.init(jax.random.key(0))
    weights = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), weights)
    keys = jax.random.split(jax.random.key(2), TASKS)
    adapters = jax.vmap(lambda key: method.finalize(method.init(key, weights), weights))(keys)
    adapters = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(3), leaf.shape), adapters)
    stacked = jax.tree.map(lambda leaf: leaf + jax.random.uniform(jax.random.key(4), (TASKS, *leaf.shape)), stats)
    spare = jax.tree.map(lambda leaf: jnp.concatenate([leaf, 1e3 * leaf[:1]]), method.pack(adapters))
    return model_of(net, weights, spare, TASKS, stacked, method), adapters


def textbook(model, adapters, image, alphas):
    """Return the derivatives of the entropy by definition: with the sum of all tasks' effective weights, times α."""
    each = jax.vmap(model.method.effective_weights, in_axes=(None, 0))(model.weights, adapters)

    def loss(alphas):
        mixed = jax.tree.map(lambda leaf: jnp.tensordot(alphas, leaf, 1), each)
        return inference.entropy(model.net.apply(mixed, model.mean_stats(), image, train=False)[0]).mean()

    return jax.grad(loss)(alphas)


@pytest.mark.thorough
def test_derivatives_of_rank_one_adapters_are_the_textbook_ones():
    model, adapters = batche_model()
    images = jax.random.normal(jax.random.key(5), (3, 5, 5, 1))
    alphas = jax.random.dirichlet(jax.random.key(6), jnp.ones(TASKS), (3,))
    actual = inference.alpha_gradient(model, images, alphas)
    uniform = inference.gradient_among(model, np.ones(TASKS, bool), images)
    for image, row, derivatives, at_uniform in zip(images, alphas, actual, uniform, strict=True):
        np.testing.assert_allclose(derivatives, textbook(model, adapters, image[None], row), rtol=1e-4, atol=1e-5)
        expected = textbook(model, adapters, image[None], jnp.full(TASKS, 1 / TASKS))
        np.testing.assert_allclose(at_uniform, expected, rtol=1e-4, atol=1e-5)


def test_all_searches_serve_batche():
    model, _ = batche_model()
    images = jax.random.normal(jax.random.key(5), (4, 5, 5, 1))
    path = inference.binary_path(model, images)
    for before, after in itertools.pairwise(path):
        gradient = jnp.where(before > 0, inference.alpha_gradient(model, images, before), jnp.inf)
        kept = -(-int((before[0] > 0).sum()) // 2)
        best = np.sort(np.argsort(gradient, axis=-1)[:, :kept])
        np.testing.assert_array_equal(best, [np.flatnonzero(row) for row in after])
    picks = [inference.infer(model, images, search()) for search in (inference.Binary, inference.OneShot)]
    np.testing.assert_array_equal(picks[0], path[-1].argmax(-1))
    np.testing.assert_array_equal(picks[1], inference.alpha_gradient(model, images, path[0]).argmin(-1))
    np.testing.assert_allclose(inference.descent_path(model, images)[-1].sum(-1), 1, rtol=1e-5)


def test_batche_is_inferred_exhaustively_by_default():
    run = adapter.own_run("LeNet", num_classes=4, image_shape=(4, 4, 1), method="BatchE", width=0.1, steps=2)
    assert run.experiment.scenario.infers is False
    assert type(run.inference()) is inference.Exhaustive
    assert type(run.inference("one_shot")) is inference.OneShot


def test_streams_need_masks():
    with pytest.raises(UserError, match="scenario NNs needs method SupSup, not BatchE"):
        adapter.experiment("x", method="BatchE", scenario="NNs")


@dataclass(frozen=True)
class Scaled(methods.Method):
    """Scales all weights of a task by a number, and superposes the numbers."""

    stores: ClassVar[str] = "numbers"
    searches: ClassVar[tuple[str, ...]] = ("OneShot",)

    def init(self, key, weights, carry=None):
        return jax.random.uniform(key)

    def finalize(self, params, weights):
        return params

    def effective_weights(self, weights, adapter):
        return jax.tree.map(lambda leaf: adapter * leaf, weights)

    def superpose(self, weights, bank, alphas):
        return jax.tree.map(lambda leaf: (alphas @ bank).reshape(-1, *[1] * leaf.ndim), weights)

    def project(self, bank, gradients, num_tasks):
        total = sum(leaf.reshape(len(leaf), -1).sum(-1) for leaf in jax.tree.leaves(gradients))
        return total[:, None] * bank


def test_a_custom_method_superposes_by_two_overrides():
    net = networks.LeNet(features=4, width=0.05, input_shape=(5, 5, 1))
    weights, _ = net.init(jax.random.key(0))
    bank = jnp.array([0.5, 2.0, 1.0])
    model = model_of(net, weights, bank, 3, method=Scaled())
    images = jax.random.normal(jax.random.key(1), (2, 5, 5, 1))
    alphas = jnp.full(3, 1 / 3)
    actual = inference.alpha_gradient(model, images, alphas)
    for image, derivatives in zip(images, actual, strict=True):
        np.testing.assert_allclose(derivatives, textbook(model, bank, image[None], alphas), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(inference.infer(model, images, inference.OneShot()), actual.argmin(-1))


def test_a_method_without_superposition_says_so():
    net = networks.LeNet(features=4, width=0.05, input_shape=(5, 5, 1))
    weights, _ = net.init(jax.random.key(0))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), weights)
    model = model_of(net, weights, stacked, 2, method=methods.UpperBound())
    with pytest.raises(NotImplementedError, match="UpperBound does not superpose tasks; override superpose"):
        inference.alpha_gradient(model, jnp.zeros((1, 5, 5, 1)), jnp.full(2, 0.5))


@dataclass(frozen=True)
class Dampened(methods.SupSup):
    """Halves weights instead of removing them, and superposes these factors."""

    def effective_weights(self, weights, adapter):
        return jax.tree.map(lambda leaf, mask: leaf * (0.5 + 0.5 * mask), weights, adapter)

    def superpose(self, weights, bank, alphas):
        masks = super().superpose(weights, bank, alphas)
        return jax.tree.map(lambda leaf: 0.5 * (alphas.sum(-1).reshape(-1, *[1] * (leaf.ndim - 1)) + leaf), masks)

    def project(self, bank, gradients, num_tasks):
        total = sum(leaf.reshape(len(leaf), -1).sum(-1) for leaf in jax.tree.leaves(gradients))
        return 0.5 * (total[:, None] + super().project(bank, gradients, num_tasks))


def dampened_model():
    net = networks.LeNet(features=4, width=0.05, input_shape=(5, 5, 1))
    weights, _ = net.init(jax.random.key(0))
    return model_of(net, weights, banks.pack(random_masks(weights, TASKS)), TASKS, method=Dampened())


@pytest.mark.parametrize("devices", thorough_but([0], [0, 2]))
def test_subclasses_of_supsup_superpose_by_two_overrides(devices):
    model, images = dampened_model(), jax.random.normal(jax.random.key(1), (2, 5, 5, 1))
    expected = inference.alpha_gradient(model, images, jnp.full(TASKS, 1 / TASKS))
    if devices:
        model = model.sharded(jax.devices()[:devices])
    for searched in (model, model.with_counts()):
        np.testing.assert_allclose(inference.OneShot().scores(searched, images), expected, rtol=1e-4, atol=1e-6)
    assert not inference.Shortlist().serves(model.method)


def test_factors_other_than_masks_are_not_searched_on_disk(tmp_path):
    model = dampened_model()
    files = write_bank(tmp_path, model)
    with pytest.raises(UserError, match="method Dampened superposes other factors than masks"):
        scores_on_disk(model, files, jnp.zeros((1, 5, 5, 1)), inference.OneShot())
