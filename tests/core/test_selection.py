import jax.numpy as jnp
import numpy as np
import pytest

from supsup_jax.inference.selection import smallest, threshold


@pytest.mark.parametrize("number", [1, 4, 9])
def test_the_smallest_are_found_with_ties_to_low_positions(number):
    values = jnp.array([0.5, -1.0, jnp.nan, 0.0, -0.0, jnp.inf, -1.0, -jnp.inf, 0.5])
    expected = np.sort(np.argsort(np.array(values) + 0.0, kind="stable")[:number])
    np.testing.assert_array_equal(smallest(values, number), expected)


def test_hardly_more_values_than_asked_for_reach_the_threshold():
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(rng.random(size) ** 4, jnp.float32) for size in (1000, 37)]
    for number in (1, 30, 1000, 1037):
        least = threshold(leaves, number)
        reached = sum(int((leaf >= least).sum()) for leaf in leaves)
        assert number <= reached <= number * 1.01 + 1
