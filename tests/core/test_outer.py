from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.tiers import thorough_but
from helpers.toys import model_of, random_masks
from supsup_jax import bank as banks
from supsup_jax import inference, methods, networks
from supsup_jax.bank import gradients, outer, parts
from supsup_jax.inference import dense

TASKS, IMAGES = 11, 9  # for at most 8 gradients, sums are used


@dataclass(frozen=True)
class Doubled(methods.SupSup):
    """Products that only arrays can have."""

    def project(self, bank, gradients, num_tasks):
        return super().project(bank, jax.tree.map(lambda leaf: 2 * leaf, gradients), num_tasks)


@dataclass(frozen=True)
class Mirrored(networks.LeNet):
    """Calls its layers twice."""

    def apply(self, weights, stats, x, train):
        logits, _ = super().apply(weights, stats, x[:, ::-1], train)
        return logits + super().apply(weights, stats, x, train)[0], stats


def searched(method=None):
    """Return a model of a dense network, and images that are the same in some pixels."""
    net = networks.LeNet(features=7, width=0.05, input_shape=(5, 5, 1))
    weights, stats = net.init(jax.random.key(0))
    model = model_of(net, weights, banks.pack(random_masks(weights, TASKS)), TASKS, stats, method)
    images = jax.random.normal(jax.random.key(2), (IMAGES, 5, 5, 1))
    return model, images.at[:, 1:3].set(-0.4)


@pytest.fixture
def projected(monkeypatch):
    """Return a list that grows by the number of gradients of each product without arrays of gradients."""
    batches, project = [], outer.project

    def counted(bank, gradients, num_tasks):
        batches.append(len(gradients["dense0"]["kernel"].inputs))
        return project(bank, gradients, num_tasks)

    monkeypatch.setattr(outer, "project", counted)
    jax.clear_caches()  # so that the product is traced
    return batches


@pytest.mark.parametrize("same", thorough_but([2], [0, 2, 5]))
def test_products_with_outer_products_are_those_with_their_arrays(same):
    rng = np.random.default_rng(0)
    inputs, slopes, weights = (rng.standard_normal(shape, np.float32) for shape in [(9, 5), (9, 3), (5, 3)])
    inputs[:, :same] = inputs[0, :same]
    bank = banks.pack({"kernel": rng.integers(0, 2, (TASKS, 5, 3))})
    factors = outer.Outer(*jax.device_put((inputs, slopes, weights)))
    arrays = {"kernel": factors.inputs[:, :, None] * factors.slopes[:, None] * weights}
    expected = banks.project(bank, arrays, TASKS)
    actual = outer.project(bank, {"kernel": factors}, TASKS)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_factors_serve_as_their_arrays_do():
    rng = np.random.default_rng(0)
    factors = outer.Outer(*(jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in [(9, 5), (9, 3), (5, 3)]))
    array = (factors.inputs[:, :, None] * factors.slopes[:, None] * factors.weights).reshape(9, 15)
    chosen, places, tasks = jnp.asarray(rng.random(15) < 0.5), jnp.array([14, 0, 7]), jnp.array([3, 10, 3])
    rows = banks.pack(rng.integers(0, 2, (TASKS, 15)))
    uses = {
        "picks": gradients.num_picks,
        "places": lambda columns: gradients.at(columns, places),
        "one pick": lambda columns: gradients.of_pick(columns, 4),
        "factors": lambda columns: gradients.times(columns, jnp.arange(15.0)),
        "squares": lambda columns: gradients.times(gradients.squares(columns), jnp.arange(15.0)),
        "sums": lambda columns: gradients.summed(columns, jnp.arange(9.0)),
        "chosen rows": lambda columns: parts.project_chosen(rows, chosen, columns),
        "chosen tasks": lambda columns: parts.project_to(rows, tasks, columns),
    }
    for name, use in uses.items():
        np.testing.assert_allclose(use(factors), use(array), rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    "objective", thorough_but([inference.entropy], [inference.entropy, inference.superfluous(real=2)])
)
def test_many_images_have_the_derivatives_of_each_image(objective, projected):
    model, images = searched()
    alphas = jax.random.uniform(jax.random.key(3), (IMAGES, TASKS))
    together = inference.alpha_gradient(model, images, alphas, objective)
    assert len(projected) == 1
    alone = [inference.alpha_gradient(model, images[i : i + 1], alphas[i], objective)[0] for i in range(IMAGES)]
    assert len(projected) == 1  # sums for single images
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("search", thorough_but([inference.OneShot()], [inference.OneShot(), inference.Binary()]))
def test_many_images_have_the_picks_of_each_image(search, projected):
    model, images = searched()
    together = search(model, images)
    assert projected
    np.testing.assert_array_equal(together, [search(model, image[None])[0] for image in images])


def test_methods_with_a_different_product_get_arrays_of_gradients(projected):
    (model, images), (other, _) = searched(), searched(Doubled())
    everything = np.ones(TASKS, bool)
    doubled = inference.gradient_among(other, everything, images)
    assert not projected
    np.testing.assert_allclose(doubled, 2 * inference.gradient_among(model, everything, images), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("net", "is_dense"),
    [
        (networks.LeNet(features=7), True),
        (networks.FC1024(features=7), True),
        (networks.BNNet(features=7), False),
        (Mirrored(features=7), False),
    ],
)
def test_only_networks_of_dense_layers_called_once_are_dense(net, is_dense):
    model = model_of(net, {}, {}, TASKS, {})
    assert dense.are_faster(model, IMAGES, 1) == is_dense
    assert not dense.are_faster(model, IMAGES, 2)
    assert not dense.are_faster(model, 1, 1)
