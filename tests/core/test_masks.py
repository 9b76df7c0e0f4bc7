import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tiers import thorough_but
from helpers.toys import kernel_path, node, random_masks
from supsup_jax import bank as banks
from supsup_jax import masks, networks
from supsup_jax.bank import bits
from supsup_jax.bank.counts import count_all
from supsup_jax.system import backend

WEIGHTS = {
    "gain": np.zeros(5),
    "dense": {"kernel": np.zeros((6, 4))},
    "conv": {"kernel": np.zeros((2, 2, 3, 5))},
}


def some_masks(tasks):
    return random_masks(WEIGHTS, tasks)


def pack_on_host(masks_):
    """Return a bank by its definition, in NumPy."""
    return jax.tree.map(lambda m: np.packbits(np.moveaxis(m, 0, -1).astype(bool), axis=-1, bitorder="little"), masks_)


def assert_trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_threshold_keeps_non_negative_scores():
    scores = jnp.array([-1.0, -1e-30, -0.0, 0.0, 1e-30, 2.0])
    np.testing.assert_array_equal(masks.threshold(scores), [0, 0, 1, 1, 1, 1])


def test_threshold_passes_the_gradient_straight_through():
    scores, cotangent = jax.random.normal(jax.random.key(0), (2, 50)) * 1e3
    value, backward = jax.vjp(masks.threshold, scores)
    assert set(np.unique(value)) == {0.0, 1.0}
    np.testing.assert_array_equal(backward(cotangent)[0], cotangent)


def top_k_by_sorting(scores, kept):
    """Return the mask by its definition: a stable sort by magnitude that keeps the last weights."""
    order = np.argsort(np.abs(scores).reshape(-1), kind="stable")
    mask = np.zeros(scores.size)
    mask[order[scores.size - kept :]] = 1
    return mask.reshape(scores.shape)


# Every size is compiled separately.
SIZES = st.sampled_from([1, 13])


@settings(deadline=None, max_examples=25)
@given(st.data(), SIZES, st.floats(0.001, 1.0))
def test_top_k_keeps_the_right_number_and_the_later_of_ties(data, size, density):
    values = st.sampled_from([0.0, -0.0, 1e-40, -0.5, 0.5, 0.5000001, -3.0, 1e30])
    scores = np.array(data.draw(st.lists(values, min_size=size, max_size=size)), np.float32)
    mask = masks.top_k({"a": scores}, density)["a"]
    np.testing.assert_array_equal(mask, top_k_by_sorting(scores, masks.num_kept(scores.size, density)))


def test_top_k_is_the_same_under_vmap():
    scores = np.round(np.random.default_rng(0).normal(size=(5, 3, 3, 4, 6)), 1).astype(np.float32)
    together = jax.jit(jax.vmap(lambda leaf: masks.top_k(leaf, 0.3)))(scores)
    for leaf, mask in zip(scores, together, strict=True):
        np.testing.assert_array_equal(mask, top_k_by_sorting(leaf, masks.num_kept(leaf.size, 0.3)))


def test_top_k_is_the_same_on_an_accelerator(monkeypatch):
    """On an accelerator the values of all layers are searched together, in blocks."""
    random = np.random.default_rng(0)
    sizes = {"a": (1,), "b": (masks._BLOCK,), "c": (masks._BLOCK + 1,), "d": (3, 3, 40, 11), "e": (7,)}
    scores = {name: random.normal(size=(2, *shape)).astype(np.float32).round(1) for name, shape in sizes.items()}
    scores["e"][0] = [0.0, -0.0, 1e-40, np.inf, -np.inf, 1e30, -1e30]
    densities = {"a": 1.0, "b": 0.3, "c": 0.01, "d": 0.5, "e": 0.6}

    def masks_and_gradients(scores):
        return jax.value_and_grad(
            lambda scores: sum((leaf * 2).sum() for leaf in masks.top_k(scores, densities).values())
        )(scores)[1], masks.top_k(scores, densities)

    on_cpu = jax.jit(jax.vmap(masks_and_gradients))(scores)
    monkeypatch.setattr(backend, "is_accelerator", lambda: True)
    found = jax.jit(jax.vmap(lambda scores: masks_and_gradients(scores)))(scores)  # a new function, traced again
    jax.tree.map(np.testing.assert_array_equal, found, on_cpu)
    for index in range(2):
        for name, mask in found[1].items():
            kept = masks.num_kept(mask[index].size, densities[name])
            np.testing.assert_array_equal(mask[index], top_k_by_sorting(scores[name][index], kept))


def test_top_k_has_no_loop_on_an_accelerator(monkeypatch):
    """A loop of 31 passes for each layer would launch thousands of kernels in every update."""
    scores = {str(layer): np.zeros((3, 3, 4, layer + 1), np.float32) for layer in range(20)}

    def loops():
        return jax.jit(lambda scores: masks.top_k(scores, 0.5)).lower(scores).as_text().count("stablehlo.while")

    assert loops() >= 20
    monkeypatch.setattr(backend, "is_accelerator", lambda: True)
    assert loops() == 0


def test_top_k_has_the_masks_and_gradients_of_the_original(golden):
    arrays = golden("supermask_topk.npz")
    images, weight, scores, cotangent = (
        jnp.asarray(arrays[name].transpose(axes))
        for name, axes in (
            ("x", (0, 2, 3, 1)),
            ("weight", (2, 3, 1, 0)),
            ("scores", (2, 3, 1, 0)),
            ("cotangent", (0, 2, 3, 1)),
        )
    )

    def convolve(kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    for density in (0.01, 0.05, 0.25, 0.5):
        mask = masks.top_k(scores, density)
        np.testing.assert_array_equal(mask, arrays[f"mask_k{density}"].transpose(2, 3, 1, 0))
        out, backward = jax.vjp(lambda scores, density=density: convolve(weight * masks.top_k(scores, density)), scores)
        np.testing.assert_allclose(out, arrays[f"out_k{density}"].transpose(0, 2, 3, 1), atol=2e-6)
        expected = arrays[f"grad_scores_k{density}"].transpose(2, 3, 1, 0)
        np.testing.assert_allclose(backward(cotangent)[0], expected, atol=2e-5)
    several = jnp.asarray(arrays["mt_scores"].transpose(0, 3, 4, 2, 1))
    np.testing.assert_array_equal(
        jax.vmap(lambda leaf: masks.top_k(leaf, 0.25))(several), arrays["mt_masks"].transpose(0, 3, 4, 2, 1)
    )
    bank = banks.pack(arrays["mt_masks"].transpose(0, 3, 4, 2, 1))
    mixed = banks.superpose(bank, jnp.asarray(arrays["mt_alphas"])[None])[0]
    np.testing.assert_allclose(convolve(weight * mixed), arrays["mt_out_superposed"].transpose(0, 2, 3, 1), atol=2e-6)


def test_the_gradient_of_top_k_has_the_sign_of_the_score():
    """The gradient is zero where the score is zero."""
    scores, cotangent = jnp.array([-2.0, 0.0, 3.0, -0.1]), jnp.array([5.0, 6.0, 7.0, 8.0])
    _, backward = jax.vjp(lambda scores: masks.top_k(scores, 0.5), scores)
    np.testing.assert_array_equal(backward(cotangent)[0], [-5.0, 0.0, 7.0, -8.0])


def test_topk_applies_one_density_to_every_layer():
    scores = {"a": jax.random.normal(jax.random.key(0), (20, 10)), "b": jax.random.normal(jax.random.key(1), (7, 3))}
    kept = masks.TopK(0.25)(scores)
    assert {name: int(mask.sum()) for name, mask in kept.items()} == {"a": 50, "b": 6}
    jax.tree.map(np.testing.assert_array_equal, kept, masks.top_k(scores, 0.25))


def test_num_kept_equals_the_originals(golden):
    for case in golden("topk_counts.json"):
        assert masks.num_kept(case["numel"], case["k"]) == case["kept"]


@pytest.mark.parametrize("scale", thorough_but([1, 32], [1, 2, 4, 8, 16, 32]))
def test_erdos_renyi_densities_are_the_originals(golden, scale):
    expected = golden("er_sparsity.json")["models"]["GEMResNet18"][str(scale)]
    weights, _ = jax.eval_shape(networks.GEMResNet18(5).init, jax.random.key(0))
    densities = masks.erdos_renyi(weights, scale)
    kept = jax.tree.map(lambda leaf, density: masks.num_kept(leaf.size, density), weights, densities)
    for layer in expected["layers"]:
        path = kernel_path(layer["name"])
        assert node(densities, path) == pytest.approx(layer["sparsity"], rel=1e-15)
        assert node(kept, path) == layer["kept"]
    assert sum(jax.tree.leaves(kept)) == expected["total_kept"]


def test_erdos_renyi_densities_of_kernels_small_layers_and_gains():
    """All parameters other than kernels are kept; a small layer keeps half of its weights."""
    assert masks.erdos_renyi(WEIGHTS, 1.0) == {
        "gain": 1.0,
        "dense": {"kernel": pytest.approx(10 / 24)},
        "conv": {"kernel": pytest.approx(8 / 60)},
    }
    assert masks.erdos_renyi(WEIGHTS, 100.0)["conv"]["kernel"] == 0.5


def test_a_density_or_a_scale_out_of_range_is_refused():
    for density in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            masks.top_k(jnp.ones(3), density)
    with pytest.raises(ValueError, match="must be positive"):
        masks.erdos_renyi(WEIGHTS, 0.0)


@pytest.mark.parametrize("tasks", thorough_but([8, 9], [1, 7, 8, 9, 20]))
def test_unpack_returns_the_packed_masks_of_layers_of_any_rank(tasks):
    packed_masks = some_masks(tasks)
    bank = banks.pack(packed_masks)
    assert bank["conv"]["kernel"].shape == (2, 2, 3, 5, -(-tasks // 8))
    for task in range(tasks):
        expected = jax.tree.map(lambda leaf, task=task: leaf[task], packed_masks)
        assert_trees_equal(banks.unpack(bank, task), expected)
        assert_trees_equal(jax.jit(banks.unpack)(bank, task), expected)


def test_unpack_refuses_a_task_beyond_the_bank():
    for task in (8, np.int64(8), -1):
        with pytest.raises(IndexError, match=f"task {task} is not in this bank of at most 8"):
            banks.unpack(banks.pack(some_masks(3)), task)


def test_each_byte_of_a_bank_holds_eight_tasks():
    everything = some_masks(13)
    assert_trees_equal(banks.pack(everything), pack_on_host(everything))


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
    assert_trees_equal(banks.concatenate(parts_of(everything, counts), counts), pack_on_host(everything))


def test_concatenated_banks_stay_on_the_host_or_the_device():
    everything = some_masks(20)
    parts = parts_of(everything, [3, 9, 8])
    assert isinstance(banks.concatenate(parts, [3, 9, 8])["gain"], np.ndarray)
    on_device = banks.concatenate(jax.tree.map(jnp.asarray, parts), [3, 9, 8])
    assert isinstance(on_device["gain"], jax.Array)
    assert_trees_equal(on_device, pack_on_host(everything))


def test_appending_one_task_sets_one_bit_column():
    everything = some_masks(10)
    bank = banks.pack(jax.tree.map(lambda leaf: leaf[:9], everything))
    last = banks.pack(jax.tree.map(lambda leaf: leaf[9:], everything))
    assert_trees_equal(banks.append(bank, 9, last, 1), banks.pack(everything))


def test_a_bank_of_some_tasks_has_their_masks_in_the_given_order():
    rng = np.random.default_rng(0)
    everything = {"kernel": rng.integers(0, 2, (37, 5, 3)), "bias": rng.integers(0, 2, (37, 4))}
    tasks = np.array([36, 0, 5, 5, 8, 9, 17, 2, 30])
    taken = bits.take(banks.pack(everything), jnp.asarray(tasks))
    expected = banks.pack(jax.tree.map(lambda leaf: leaf[tasks], everything))
    jax.tree.map(np.testing.assert_array_equal, banks.first(taken, len(tasks)), expected)


def test_concatenate_refuses_more_tasks_than_the_bytes_hold():
    with pytest.raises(ValueError, match="does not hold 9 tasks"):
        banks.concatenate([banks.pack(some_masks(8))], [9])


@pytest.mark.parametrize("count", [0, 9])
def test_first_refuses_no_tasks_and_more_tasks_than_the_bank_holds(count):
    with pytest.raises(ValueError, match=f"does not hold {count} tasks"):
        banks.first(banks.pack(some_masks(8)), count)


def test_first_clears_all_bits_of_later_tasks():
    everything = some_masks(20)
    for count in (1, 8, 11):
        expected = banks.pack(jax.tree.map(lambda leaf, count=count: leaf[:count], everything))
        assert_trees_equal(banks.first(banks.pack(everything), count), expected)


def test_pack_refuses_leaves_with_different_numbers_of_tasks():
    with pytest.raises(ValueError, match="of 2 and 3 tasks"):
        banks.pack({"a": jnp.ones((3, 4)), "b": jnp.ones((2, 4))})


@pytest.mark.parametrize(
    ("tasks", "batch"), thorough_but([(13, 1), (300, 5)], itertools.product([1, 13, 40, 240, 300], [1, 5]))
)
def test_count_is_the_number_of_chosen_tasks_that_keep_a_weight(tasks, batch):
    everything = some_masks(tasks)
    chosen = jax.random.bernoulli(jax.random.key(1), 0.5, (batch, tasks))
    expected = jax.tree.map(lambda leaf: jnp.einsum("bt,t...->b...", chosen, leaf), everything)
    assert_trees_equal(banks.count(banks.pack(everything), chosen), expected)


@pytest.mark.parametrize(
    ("tasks", "batch", "accelerator", "slice_bytes"),
    thorough_but(
        [(13, 5, True, 2000)],
        [
            (tasks, *how, slice_bytes)
            for tasks in (1, 13, 140)
            for how in ((1, False), (5, False), (20, False), (5, True))
            for slice_bytes in (1, 2000, 4 * 2**20)
        ],
    ),
)
def test_products_with_a_bank_equal_products_with_its_masks(tasks, batch, accelerator, slice_bytes, monkeypatch):
    monkeypatch.setattr(backend, "slice_bytes", lambda: slice_bytes)
    monkeypatch.setattr(backend, "is_accelerator", lambda: accelerator)
    monkeypatch.setattr(bits, "_SUMS", slice_bytes)
    everything = some_masks(tasks)
    bank = banks.pack(everything)
    alphas = jax.random.normal(jax.random.key(2), (batch, tasks))
    superposition = jax.tree.map(lambda leaf: jnp.einsum("bt,t...->b...", alphas, leaf), everything)
    jax.tree.map(
        lambda actual, expected: np.testing.assert_allclose(actual, expected, atol=1e-5),
        banks.superpose(bank, alphas),
        superposition,
    )
    gradients = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(3), leaf.shape), superposition)
    products = [
        jnp.einsum("bk,tk->bt", gradient.reshape(batch, -1), leaf.reshape(tasks, -1))
        for gradient, leaf in zip(jax.tree.leaves(gradients), jax.tree.leaves(everything), strict=True)
    ]
    np.testing.assert_allclose(banks.project(bank, gradients, tasks), sum(products), atol=1e-4)


def test_the_projection_on_an_accelerator_is_as_exact_as_float32(monkeypatch):
    """Matrix units of accelerators round their inputs."""
    monkeypatch.setattr(backend, "is_accelerator", lambda: True)
    kept = random_masks({"a": np.zeros(5000)}, 3)
    gradient = np.asarray(jax.random.normal(jax.random.key(1), (2, 5000)))
    exact = gradient.astype(np.float64) @ np.asarray(kept["a"], np.float64).T
    measured = banks.project(banks.pack(kept), {"a": jnp.asarray(gradient)}, 3)
    np.testing.assert_allclose(measured, exact, rtol=1e-5)


def test_narrow_drops_only_whole_bytes_of_later_tasks():
    bank = banks.pack(random_masks({"a": np.zeros(3)}, 20))
    np.testing.assert_array_equal(banks.narrow(bank, 11)["a"], bank["a"][..., :2])
    with pytest.raises(ValueError, match="does not hold 25 tasks"):
        banks.narrow(bank, 25)


def test_masks_of_250_lenet_tasks_take_under_10_megabytes():
    net = networks.LeNet(features=100)
    shapes, _ = jax.eval_shape(net.init, jax.random.key(0))
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((250, *leaf.shape), leaf.dtype), shapes)
    bank = jax.eval_shape(banks.pack, stacked)
    assert sum(leaf.size for leaf in jax.tree.leaves(bank)) < 10e6


def test_replacing_a_mask_outside_the_bank_is_refused():
    bank = banks.pack(random_masks({"a": np.zeros(3)}, 8))
    with pytest.raises(IndexError, match="task 8 is not in this bank of at most 8"):
        banks.replace(bank, 8, {"a": np.zeros(3)})


@pytest.mark.parametrize("task", thorough_but([7, 8], [0, 7, 8, 12]))
def test_replace_changes_the_mask_of_one_task_only(task):
    old = random_masks({"a": np.zeros((3, 4)), "b": np.zeros(5)}, 13)
    new = random_masks({"a": np.zeros((3, 4)), "b": np.zeros(5)}, 1, seed=1)
    bank = banks.replace(banks.pack(old), jnp.int32(task), jax.tree.map(lambda leaf: leaf[0], new))
    for other in range(13):
        expected = jax.tree.map(
            lambda leaf, other=other: leaf[0 if other == task else other], new if other == task else old
        )
        jax.tree.map(np.testing.assert_array_equal, banks.unpack(bank, other), expected)


@pytest.mark.parametrize("tasks", [1, 8, 21])
def test_counts_of_the_first_tasks_are_the_same_on_the_host(tasks):
    bank = banks.pack({"kernel": jax.random.bernoulli(jax.random.key(0), 0.4, (21, 6, 5))})
    expected = {"kernel": banks.count(bank, jnp.arange(21)[None] < tasks)["kernel"][0]}
    assert_trees_equal(count_all(bank, tasks), expected)
    on_host = count_all(jax.device_get(bank), tasks)
    assert isinstance(on_host["kernel"], np.ndarray)
    assert_trees_equal(on_host, expected)
