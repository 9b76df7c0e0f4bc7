import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supsup_jax as ss
from helpers.tiers import thorough_but
from helpers.toys import conv_net, model_of, random_masks
from supsup_jax import bank as banks
from supsup_jax import networks
from supsup_jax.inference import narrowing, searches
from supsup_jax.inference.selection import smallest, threshold
from supsup_jax.masks import threshold as mask_of


@pytest.mark.parametrize("tasks", [3, 300])
def test_words_hold_the_masks_of_the_tasks(tasks):
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (tasks, 75)).astype(np.float32)
    chosen = np.sort(rng.permutation(tasks)[: math.ceil(0.6 * tasks)])
    words = narrowing.words_of(banks.pack(masks), jnp.asarray(chosen))
    gradient = rng.normal(size=75).astype(np.float32)
    assert words.shape == (3, len(chosen))
    np.testing.assert_array_equal(narrowing.count_words(words, 75), masks[chosen].sum(0))
    np.testing.assert_allclose(
        narrowing.project_words(words, jnp.asarray(gradient)), masks[chosen] @ gradient, rtol=1e-4, atol=1e-4
    )
    (left,) = narrowing.take_words([words], jnp.array([1]))
    np.testing.assert_array_equal(narrowing.count_words(left, 75), masks[chosen[1]])


def sizes_of(tasks, base):
    sizes = [tasks]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // base))
    return sizes[1:]


@pytest.mark.parametrize(
    ("net", "tasks", "base"),
    thorough_but([("dense", 150, 2)], itertools.product(["dense", "convolutions"], [2, 9, 150, 300], [2, 7])),
)
def test_dropping_masks_keeps_the_same_tasks_in_every_round(net, tasks, base):
    net = networks.LeNet(features=7, width=0.05, input_shape=(5, 5, 1)) if net == "dense" else conv_net()
    weights, stats = net.init(jax.random.key(0))
    stats = jax.tree.map(lambda leaf: jnp.stack([leaf] * tasks), stats)
    model = model_of(net, weights, banks.pack(random_masks(weights, tasks)), tasks, stats)
    groups = jax.random.normal(jax.random.key(2), (3, 2, 5, 5, 1))
    arguments = model, groups, ss.entropy, sizes_of(tasks, base)
    narrowed = searches._narrowing_rounds(*arguments)
    np.testing.assert_array_equal(narrowed, searches._rounds(*arguments))


@pytest.mark.parametrize(
    ("letter", "images_per_pick"), thorough_but([("G", 16)], itertools.product(["H", "G"], [1, 16]))
)
def test_rounds_of_dropped_masks_equal_the_originals(golden, letter, images_per_pick):
    arrays = golden("supermask_threshold.npz")
    net = networks.LeNet(features=20, width=0.1)
    weights, scores = (
        {
            f"dense{j}": {"kernel": jnp.asarray(arrays[f"{name}{j}"][..., 0, 0].swapaxes(-1, -2), jnp.float32)}
            for j in range(3)
        }
        for name in ("weight", "scores")
    )
    flat = arrays["x"].reshape(16, 784)
    images = jnp.stack([jnp.asarray(flat[:, perm]).reshape(16, 28, 28, 1) for perm in arrays["perms"]])
    model = model_of(net, weights, banks.pack(mask_of(scores)), 6)
    objective = ss.entropy if letter == "H" else ss.superfluous(real=10)
    rounds = searches._narrowing_rounds(model, images[:, :images_per_pick], objective, sizes_of(6, 2))
    several = "" if images_per_pick == 1 else "_all16"
    expected = arrays[f"alphas_binary_{letter}{several}"][:, 1:] > 0
    np.testing.assert_array_equal(rounds.swapaxes(0, 1), expected[:, : len(rounds)])


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
