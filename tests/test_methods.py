import jax
import jax.numpy as jnp
import numpy as np
from toys import conv_net

from supsup_jax.methods import SupSup


def test_supsup_runs_the_network_with_the_weights_whose_score_is_not_negative():
    weights = {"a": jnp.array([[1.0, -2.0], [3.0, 4.0]])}
    scores = {"a": jnp.array([[0.5, -0.5], [0.0, -1e-9]])}
    np.testing.assert_array_equal(SupSup().effective(weights, scores)["a"], [[1, 0], [3, 0]])


def test_supsup_scores_start_uniform_below_one_over_root_fan_in_for_layers_of_any_rank():
    weights = {"conv": np.zeros((2, 2, 30, 40)), "dense": np.zeros((75, 50)), "gain": np.zeros(100)}
    scores = SupSup().init_task(jax.random.key(1), jax.tree.map(jnp.asarray, weights))
    for name, fan_in in (("conv", 120), ("dense", 75), ("gain", 100)):
        assert scores[name].shape == weights[name].shape
        assert 0.9 / np.sqrt(fan_in) < np.abs(scores[name]).max() <= 1 / np.sqrt(fan_in)


def test_the_gradient_of_a_score_is_that_of_the_masked_weight_times_the_weight():
    weights, scores, cotangent = ({"a": leaf} for leaf in jax.random.normal(jax.random.key(0), (3, 4, 5)))
    _, backward = jax.vjp(lambda scores: SupSup().effective(weights, scores), scores)
    np.testing.assert_allclose(backward(cotangent)[0]["a"], weights["a"] * cotangent["a"], rtol=1e-6)


def test_what_is_stored_of_a_task_gives_the_same_effective_weights():
    method = SupSup()
    weights, _ = conv_net().init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 5)
    scores = jax.vmap(lambda key: method.init_task(key, weights))(keys)
    store = method.pack(jax.vmap(method.keep)(scores))
    for task in range(5):
        expected = method.effective(weights, jax.tree.map(lambda leaf, task=task: leaf[task], scores))
        actual = method.combine(weights, method.unpack(store, task))
        jax.tree.map(np.testing.assert_array_equal, actual, expected)
