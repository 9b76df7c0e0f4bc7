"""Task inference by gradient descent on α."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import adapter
from helpers.toys import model_of, random_masks
from supsup_jax import UserError, inference, networks
from supsup_jax import bank as banks
from supsup_jax.inference.descent import project_on_simplex


def masks_model(tasks=6):
    net = networks.LeNet(features=7, width=0.05, input_shape=(5, 5, 1))
    weights, _ = net.init(jax.random.key(0))
    return model_of(net, weights, banks.pack(random_masks(weights, tasks)), tasks)


def nearest_on_simplex(point):
    """Return the projection by definition: subtract the number with which the positive rest sums to 1 (bisection)."""
    low, high = point.min() - 1, point.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(point - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(point - low, 0)


def test_points_are_projected_on_the_simplex():
    points = np.random.default_rng(0).normal(size=(50, 6)) * np.geomspace(0.01, 100, 50)[:, None]
    expected = [nearest_on_simplex(point) for point in points]
    np.testing.assert_allclose(project_on_simplex(jnp.asarray(points, jnp.float32)), expected, atol=2e-5)
    inside = np.random.default_rng(1).dirichlet(np.ones(6), 5)
    np.testing.assert_allclose(project_on_simplex(jnp.asarray(inside)), inside, atol=1e-6)


@pytest.mark.parametrize("images_per_pick", [1, 3])
def test_descent_equals_a_plain_loop(images_per_pick):
    model, steps, rate = masks_model(), 4, 0.7
    images = jax.random.normal(jax.random.key(1), (6, 5, 5, 1))
    path = inference.descent_path(model, images, inference.entropy, images_per_pick, steps, rate)
    assert path.shape == (steps + 1, 6 // images_per_pick, 6)
    for pick, group in enumerate(images.reshape(-1, images_per_pick, 5, 5, 1)):
        alphas = np.full(6, 1 / 6)
        for step in range(steps):
            np.testing.assert_allclose(path[step, pick], alphas, atol=1e-4)
            gradient = inference.alpha_gradient(model, group, jnp.float32(alphas), images_per_pick=images_per_pick)
            alphas = nearest_on_simplex(alphas - rate * np.asarray(gradient[0], np.float64))
        np.testing.assert_allclose(path[steps, pick], alphas, atol=1e-4)
    search = inference.Descent(steps=steps, learning_rate=rate)
    np.testing.assert_array_equal(search(model, images, images_per_pick), path[-1].argmax(-1))
    np.testing.assert_allclose(jnp.exp(-search.scores(model, images, images_per_pick)), path[-1], rtol=1e-5)


@pytest.mark.parametrize("objective", [inference.entropy, inference.superfluous(real=2)])
def test_one_step_of_descent_picks_as_one_shot(objective):
    images = jax.random.normal(jax.random.key(1), (9, 5, 5, 1))
    one_step = inference.infer(masks_model(), images, inference.Descent(objective, steps=1, learning_rate=1e-2))
    np.testing.assert_array_equal(one_step, inference.infer(masks_model(), images, inference.OneShot(objective)))


def test_descent_checks_its_arguments_and_has_flags():
    with pytest.raises(UserError, match="search_steps 0: must be from 1"):
        adapter.experiment("x", search="descent", search_steps=0)
    with pytest.raises(UserError, match="search_learning_rate 0: must be a positive number"):
        adapter.experiment("x", search="descent", search_learning_rate=0.0)
    scenario: Any = adapter.experiment("x", search="descent", search_steps=3, search_learning_rate=2.0).scenario
    assert scenario.search == inference.Descent(steps=3, learning_rate=2.0)
    script = "experiments/GNu/MNISTPerm/LeNet-250-tasks/supsup_h.py"
    flags = adapter.flags(script, "--search", "descent")
    assert flags.keys() >= {"--search-steps", "--search-learning-rate", "--steps", "--learning-rate"}
