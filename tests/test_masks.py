import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import random_masks

from supsup_jax import backend, masks, networks

WEIGHTS = {
    "gain": np.zeros(5),
    "dense": {"kernel": np.zeros((6, 4))},
    "conv": {"kernel": np.zeros((2, 2, 3, 5))},
}


def some_masks(tasks):
    return random_masks(WEIGHTS, tasks)


def pack_on_host(masks_):
    """The definition of a bank, in NumPy."""
    return jax.tree.map(lambda m: np.packbits(np.moveaxis(m, 0, -1).astype(bool), axis=-1, bitorder="little"), masks_)


def assert_trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_threshold_keeps_scores_from_zero_on():
    scores = jnp.array([-1.0, -1e-30, -0.0, 0.0, 1e-30, 2.0])
    np.testing.assert_array_equal(masks.threshold(scores), [0, 0, 1, 1, 1, 1])


def test_threshold_passes_the_gradient_straight_through_and_stays_exact():
    scores, cotangent = jax.random.normal(jax.random.key(0), (2, 50)) * 1e3
    value, backward = jax.vjp(masks.threshold, scores)
    assert set(np.unique(value)) == {0.0, 1.0}
    np.testing.assert_array_equal(backward(cotangent)[0], cotangent)


@pytest.mark.parametrize("tasks", [1, 7, 8, 9, 20])
def test_unpack_gives_back_what_was_packed_for_layers_of_any_rank(tasks):
    packed_masks = some_masks(tasks)
    bank = masks.pack(packed_masks)
    assert bank["conv"]["kernel"].shape == (2, 2, 3, 5, -(-tasks // 8))
    for task in range(tasks):
        expected = jax.tree.map(lambda leaf, task=task: leaf[task], packed_masks)
        assert_trees_equal(masks.unpack(bank, task), expected)
        assert_trees_equal(jax.jit(masks.unpack)(bank, task), expected)


def test_unpack_refuses_a_task_beyond_the_bank():
    for task in (8, np.int64(8), -1):
        with pytest.raises(IndexError, match=f"task {task} is not in a bank of at most 8"):
            masks.unpack(masks.pack(some_masks(3)), task)


def test_a_bank_is_bytes_of_eight_tasks():
    everything = some_masks(13)
    assert_trees_equal(masks.pack(everything), pack_on_host(everything))


def parts_of(everything, counts):
    ends = np.cumsum(counts)
    return [
        pack_on_host(jax.tree.map(lambda leaf, a=end - count, b=end: leaf[a:b], everything))
        for count, end in zip(counts, ends, strict=True)
    ]


@settings(deadline=None)
@given(st.lists(st.integers(1, 19), min_size=1, max_size=6))
def test_concatenating_banks_equals_packing_all_masks_at_once(counts):
    everything = some_masks(sum(counts))
    assert_trees_equal(masks.concatenate(parts_of(everything, counts), counts), pack_on_host(everything))


def test_banks_on_the_host_stay_there_and_banks_on_a_device_too():
    everything = some_masks(20)
    parts = parts_of(everything, [3, 9, 8])
    assert isinstance(masks.concatenate(parts, [3, 9, 8])["gain"], np.ndarray)
    on_device = masks.concatenate(jax.tree.map(jnp.asarray, parts), [3, 9, 8])
    assert isinstance(on_device["gain"], jax.Array)
    assert_trees_equal(on_device, pack_on_host(everything))


def test_appending_one_task_sets_one_bit_column():
    everything = some_masks(10)
    bank = masks.pack(jax.tree.map(lambda leaf: leaf[:9], everything))
    one = masks.pack(jax.tree.map(lambda leaf: leaf[9:], everything))
    assert_trees_equal(masks.append(bank, 9, one, 1), masks.pack(everything))


def test_concatenate_refuses_more_tasks_than_the_bytes_hold():
    with pytest.raises(ValueError, match="does not hold 9 tasks"):
        masks.concatenate([masks.pack(some_masks(8))], [9])


@pytest.mark.parametrize("count", [0, 9])
def test_first_refuses_more_tasks_than_the_bank_holds_and_none(count):
    with pytest.raises(ValueError, match=f"does not hold {count} tasks"):
        masks.first(masks.pack(some_masks(8)), count)


def test_first_drops_later_tasks_whole():
    everything = some_masks(20)
    for count in (1, 8, 11):
        expected = masks.pack(jax.tree.map(lambda leaf, count=count: leaf[:count], everything))
        assert_trees_equal(masks.first(masks.pack(everything), count), expected)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("tasks", [1, 13, 40])
def test_count_is_the_number_of_chosen_tasks_that_keep_a_weight(tasks, batch):
    everything = some_masks(tasks)
    chosen = jax.random.bernoulli(jax.random.key(1), 0.5, (batch, tasks))
    expected = jax.tree.map(lambda leaf: jnp.einsum("bt,t...->b...", chosen, leaf), everything)
    assert_trees_equal(masks.count(masks.pack(everything), chosen), expected)


@pytest.mark.parametrize("slice_bytes", [1, 2000, 4 * 2**20])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("tasks", [1, 13, 40])
def test_products_with_a_bank_equal_those_with_its_masks(tasks, batch, slice_bytes, monkeypatch):
    monkeypatch.setattr(backend, "slice_bytes", lambda: slice_bytes)
    everything = some_masks(tasks)
    bank = masks.pack(everything)
    alphas = jax.random.normal(jax.random.key(2), (batch, tasks))
    superposition = jax.tree.map(lambda leaf: jnp.einsum("bt,t...->b...", alphas, leaf), everything)
    jax.tree.map(
        lambda actual, expected: np.testing.assert_allclose(actual, expected, atol=1e-5),
        masks.superpose(bank, alphas),
        superposition,
    )
    gradients = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(3), leaf.shape), superposition)
    products = [
        jnp.einsum("bk,tk->bt", gradient.reshape(batch, -1), leaf.reshape(tasks, -1))
        for gradient, leaf in zip(jax.tree.leaves(gradients), jax.tree.leaves(everything), strict=True)
    ]
    np.testing.assert_allclose(masks.project(bank, gradients, tasks), sum(products), atol=1e-4)


def test_masks_of_250_lenet_tasks_take_under_10_megabytes():
    net = networks.LeNet(features=100)
    shapes, _ = jax.eval_shape(net.init, jax.random.key(0))
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((250, *leaf.shape), leaf.dtype), shapes)
    bank = jax.eval_shape(masks.pack, stacked)
    assert sum(leaf.size for leaf in jax.tree.leaves(bank)) < 10e6


def test_a_mask_outside_the_bank_is_not_replaced():
    bank = masks.pack(random_masks({"a": np.zeros(3)}, 8))
    with pytest.raises(IndexError, match="task 8 is not in a bank of at most 8"):
        masks.replace(bank, 8, {"a": np.zeros(3)})


@pytest.mark.parametrize("task", [0, 7, 8, 12])
def test_one_mask_of_a_bank_is_replaced_and_no_other(task):
    old = random_masks({"a": np.zeros((3, 4)), "b": np.zeros(5)}, 13)
    new = random_masks({"a": np.zeros((3, 4)), "b": np.zeros(5)}, 1, seed=1)
    bank = masks.replace(masks.pack(old), jnp.int32(task), jax.tree.map(lambda leaf: leaf[0], new))
    for other in range(13):
        expected = jax.tree.map(
            lambda leaf, other=other: leaf[0 if other == task else other], new if other == task else old
        )
        jax.tree.map(np.testing.assert_array_equal, masks.unpack(bank, other), expected)
