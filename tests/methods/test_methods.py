import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.tiers import thorough_but
from helpers.toys import conv_net
from supsup_jax import UserError, bank, inference, masks, networks
from supsup_jax.methods import (
    PSP,
    BatchE,
    FineTuning,
    HopSupSup,
    LowerBound,
    SeparateHeads,
    SupSup,
    Transfer,
    UpperBound,
    hopsupsup,
)

ALL = [
    SupSup(),
    SupSup(masks.ErdosRenyi(2.0)),
    BatchE(),
    PSP(),
    SeparateHeads("Dense_0"),
    FineTuning("Dense_0"),
    UpperBound(),
    LowerBound(),
]


def kernel(array):
    """Convert a PyTorch convolution kernel `(out, in, height, width)` to JAX's layout."""
    return jnp.asarray(array.transpose(2, 3, 1, 0))


def test_supsup_keeps_weights_with_nonnegative_scores():
    weights = {"a": jnp.array([[1.0, -2.0], [3.0, 4.0]])}
    scores = {"a": jnp.array([[0.5, -0.5], [0.0, -1e-9]])}
    np.testing.assert_array_equal(SupSup().training_weights(weights, scores)["a"], [[1, 0], [3, 0]])


def test_supsup_scores_are_uniform_within_one_over_root_fan_in():
    """This holds for layers of any rank."""
    weights = {"conv": np.zeros((2, 2, 30, 40)), "dense": np.zeros((75, 50)), "gain": np.zeros(100)}
    scores = SupSup().init(jax.random.key(1), jax.tree.map(jnp.asarray, weights))
    for name, fan_in in (("conv", 120), ("dense", 75), ("gain", 100)):
        assert scores[name].shape == weights[name].shape
        assert 0.9 / np.sqrt(fan_in) < np.abs(scores[name]).max() <= 1 / np.sqrt(fan_in)


def test_score_gradients_are_straight_through():
    weights, scores, cotangent = ({"a": leaf} for leaf in jax.random.normal(jax.random.key(0), (3, 4, 5)))
    _, backward = jax.vjp(lambda scores: SupSup().training_weights(weights, scores), scores)
    np.testing.assert_allclose(backward(cotangent)[0]["a"], weights["a"] * cotangent["a"], rtol=1e-6)


class Scaled(SupSup):
    def finalize(self, params, weights):
        return {"mask": super().finalize(params["scores"], weights), "scale": params["scale"]}


@pytest.mark.parametrize("method", [Scaled(), SupSup(mask=lambda scores: scores)], ids=["finalize", "mask"])
def test_a_custom_adapter_is_packed_as_bits_only_if_it_is_binary(method):
    ones = {"mask": jnp.ones((3, 4)), "scale": jnp.ones(3)}
    for value in (0.5, 2.0):
        adapters = ones | {"scale": jnp.array([1.0, value, 1.0])}
        with pytest.raises(UserError, match=f"the adapter of method {type(method).__name__} has values other than 0"):
            method.pack(adapters)
        jax.eval_shape(method.pack, adapters)
    assert jax.tree.all(jax.tree.map(np.array_equal, method.pack(ones), bank.pack(ones)))


@pytest.mark.parametrize(
    "method", thorough_but([ALL[0], BatchE(), PSP(), ALL[4]], ALL), ids=lambda method: type(method).__name__
)
def test_a_stored_adapter_gives_the_trained_network(method):
    net = conv_net()
    weights, stats = net.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 5)
    images = jax.random.normal(jax.random.key(2), (3, 5, 5, 1))
    params = jax.vmap(lambda key: method.init(key, weights))(keys)
    bank = method.pack(jax.vmap(lambda key: method.finalize(method.init(key, weights), weights))(keys))
    bank = method.concatenate([jax.device_get(bank)] * 2, [5, 5])
    for task in range(5):
        task_params = jax.tree.map(lambda leaf, task=task: leaf[task], params)
        expected, _ = net.apply(method.training_weights(weights, task_params), stats, images, train=False)
        for entry in (task, jnp.int32(5 + task)):
            adapter = method.unpack(jax.tree.map(jnp.asarray, bank), entry)
            actual, _ = net.apply(method.effective_weights(weights, adapter), stats, images, train=False)
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_batche_matches_the_original(golden):
    arrays = golden("batche.npz")
    weights = {"kernel": kernel(arrays["weight"])}
    images = jnp.asarray(arrays["x"].transpose(0, 2, 3, 1))

    def run(weights, vectors):
        effective = BatchE().training_weights(weights, vectors)["kernel"]
        return jax.lax.conv_general_dilated(
            images, effective, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    for task in range(3):
        vectors = {"kernel": {name: jnp.asarray(arrays[name][task, 0]) for name in "st"}}
        out, backward = jax.vjp(run, weights, vectors)
        np.testing.assert_allclose(out.transpose(0, 3, 1, 2), arrays[f"out_task{task}"], rtol=1e-5, atol=2e-5)
        if task == 1:
            weights_bar, vectors_bar = backward(jnp.asarray(arrays["cotangent"].transpose(0, 2, 3, 1)))
            np.testing.assert_allclose(weights_bar["kernel"], kernel(arrays["grad_weight_task1"]), rtol=1e-5, atol=5e-5)
            for name in "st":
                np.testing.assert_allclose(
                    vectors_bar["kernel"][name], arrays[f"grad_{name}_task1"][0], rtol=1e-5, atol=5e-5
                )


def test_batche_starts_with_random_signs():
    """Only the first task trains the base weights."""
    weights, _ = networks.LeNet(10).init(jax.random.key(0))
    vectors = BatchE().init(jax.random.key(1), weights)["dense0"]["kernel"]
    assert vectors["s"].shape == (300,) and vectors["t"].shape == (784,)
    assert set(np.unique(vectors["t"])) == {-1, 1} and abs(vectors["t"].mean()) < 0.15
    vectors = BatchE().init(jax.random.key(1), {"conv": jnp.zeros((3, 3, 2, 5)), "gain": jnp.zeros(5)})
    assert jax.tree.map(jnp.shape, vectors) == {"conv": {"s": (5,), "t": (2,)}, "gain": {}}
    assert [BatchE().trains_weights(task) for task in range(3)] == [True, False, False]


def test_psp_matches_the_original(golden):
    arrays = golden("psp.npz")
    images = jnp.asarray(arrays["x"][:, None, None, :, 0, 0])
    net = networks.Network(networks.mlp.MLP((5,)), input_shape=(1, 1, 6))
    for task in range(3):
        weights = {"dense0": {"kernel": kernel(arrays["weight"])[0, 0]}}
        params = {"rotations": {"dense0": {"kernel": jnp.asarray(arrays["contexts"][task].T)}}, "key": None}

        def run(weights, params=params):
            return net.apply(PSP().training_weights(weights, params), {}, images, train=True)[0]

        out, backward = jax.vjp(run, weights)
        np.testing.assert_allclose(out, arrays[f"out_task{task}"][:, :, 0, 0], atol=1e-5)
        if task == 1:
            (weights_bar,) = backward(jnp.asarray(arrays["cotangent"][:, :, 0, 0]))
            expected = kernel(arrays["grad_weight_task1"])[0, 0]
            np.testing.assert_allclose(weights_bar["dense0"]["kernel"], expected, atol=1e-5)


def test_psp_keeps_a_key_and_draws_orthogonal_rotations():
    weights, _ = conv_net().init(jax.random.key(0))
    params = PSP().init(jax.random.key(1), weights)
    rotation = params["rotations"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(len(rotation)), atol=1e-5)
    assert PSP().finalize(params, weights).nbytes == 8
    other = PSP().init(jax.random.key(2), weights)["rotations"]["Dense_0"]["kernel"]
    assert abs(rotation - other).max() > 0.1


def test_remember_requires_a_bank_of_fixed_size():
    with pytest.raises(NotImplementedError, match="the bank of SupSup grows"):
        SupSup().remember(None, {})


@pytest.mark.parametrize("method", [*ALL, Transfer(), HopSupSup()], ids=lambda method: type(method).__name__)
def test_methods_name_their_searches(method):
    of_masks, has_none = ("OneShot", "Binary", "Exhaustive"), isinstance(method, HopSupSup | LowerBound)
    superposes = isinstance(method, BatchE)  # its default is the search that it had first
    others = () if has_none else ("Exhaustive", "OneShot", "Binary") if superposes else ("Exhaustive",)
    assert method.searches == (of_masks if method.has_masks else others)
    assert all(hasattr(inference, name) for name in method.searches)
    assert method.recovers == isinstance(method, HopSupSup)


def test_the_error_for_an_unsuitable_network_names_the_problem():
    with_gains, without = networks.BNNet(10, width=0.01), networks.LeNet(10, width=0.1)
    for method in [SupSup(), HopSupSup(), SeparateHeads("dense2")]:
        method.check(with_gains)
    with pytest.raises(ValueError, match="requires a network with gains"):
        HopSupSup().check(without)
    with pytest.raises(ValueError, match="FineTuning needs to know the last layer"):
        FineTuning("").check(networks.Network(without.module, without.input_shape))


def test_masks_are_accounted_for_as_bits_and_as_sparse_indices():
    method, weights = SupSup(), {"a": jnp.ones((4, 2))}
    bank = method.pack({"a": jnp.ones((3, 4, 2)).at[0].set(0)})
    expected = {"seed of the random weights": 8, "masks as bits": 8, "masks as sparse indices of 16 bits": 2 * 2 * 8}
    assert method.account(weights, bank, 3) == expected


def masks_of(scores):
    return {"gain": {"scale": jnp.asarray((scores >= 0).astype(np.float32))}, "dense": {"kernel": None}}


def test_storkeys_rule_and_the_energy_match_the_original(golden):
    arrays = golden("hop.npz")
    memory = None
    for task in range(4):
        memory = HopSupSup().remember(memory, masks_of(arrays["scores"][task : task + 1]))
        np.testing.assert_allclose(memory.matrices["gain"]["scale"], arrays[f"W_learned{task + 1}"], atol=1e-6)
    mean = memory.total["gain"]["scale"] / memory.num_tasks
    np.testing.assert_allclose(mean, arrays["score_mean_of_4"], atol=1e-6)
    energy = hopsupsup.energy(memory.matrices["gain"]["scale"], jnp.where(mean >= 0, 1.0, -1.0))
    np.testing.assert_allclose(energy, arrays["energy_learned4"], rtol=1e-5)

    def of_scores(scores):
        return hopsupsup.energy(memory.matrices["gain"]["scale"], 2 * hopsupsup.masks.threshold(scores) - 1)

    np.testing.assert_allclose(jax.grad(of_scores)(mean), arrays["grad_energy_score"], atol=1e-5)


def test_a_memory_stores_tasks_one_by_one_or_together():
    masks = masks_of(np.random.default_rng(0).normal(size=(5, 40)))
    together = HopSupSup().remember(None, masks)
    in_turn = None
    for task in range(5):
        in_turn = HopSupSup().remember(in_turn, jax.tree.map(lambda leaf, task=task: leaf[task : task + 1], masks))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), together, in_turn)
    assert together.matrices["gain"]["scale"].shape == (40, 40)
    assert together.num_tasks == 5


def test_batch_norm_with_gains_matches_the_original(golden):
    arrays = golden("hop.npz")
    layer = networks.mlp.BNMLP((32, 32))  # both dense layers are set to the identity
    eye = {"kernel": jnp.eye(32)}
    images = jnp.asarray(arrays["x"][:, None, None, :, 0, 0])

    def gains(scores):
        params = {"gain0": {"scale": scores}, "dense0": {"kernel": None}, "dense1": {"kernel": None}}
        weights = {"gain0": {"scale": jnp.ones(32)}, "dense0": eye, "dense1": eye}
        weights = HopSupSup().training_weights(weights, params)
        return networks.Network(layer, (1, 1, 32)).apply(weights, {}, images, train=True)[0]

    out = np.asarray(arrays["out_task1"][:, :, 0, 0])
    np.testing.assert_allclose(gains(jnp.asarray(arrays["scores"][1])), out / (1 + np.exp(-out)), atol=1e-5)


def test_hopsupsup_starts_with_all_gains_on():
    weights, _ = networks.BNNet(10, width=0.01).init(jax.random.key(0))
    scores = HopSupSup().init(jax.random.key(1), weights)
    assert [leaf.shape for leaf in jax.tree.leaves(scores)] == [(20,), (20,)]
    jax.tree.map(np.testing.assert_array_equal, HopSupSup().training_weights(weights, scores), weights)


def test_transfer_starts_from_the_mean_of_the_earlier_scores():
    weights = {"a": jnp.zeros((3, 2))}
    method = Transfer()
    carry = method.first_carry(weights)
    first = method.init(jax.random.key(0), weights, carry)
    np.testing.assert_array_equal(first["a"], SupSup().init(jax.random.key(0), weights)["a"])
    for scores in (1.0, -4.0, 9.0):
        carry = method.next_carry(carry, {"a": jnp.full((3, 2), scores)})
    np.testing.assert_allclose(method.init(jax.random.key(1), weights, carry)["a"], 2.0)
    assert all(method.in_turn(task) and not method.trains_weights(task) for task in range(3))


def test_heads_start_equal_and_share_the_body_of_the_first_task(golden):
    arrays = golden("individual_heads.npz")
    assert all((head == arrays["scores_fresh"][0]).all() for head in arrays["scores_fresh"])  # so do the original's
    net = networks.LeNet(5, width=0.02, input_shape=(2, 4, 1), initializer=networks.pytorch_default)
    weights, _ = net.init(jax.random.key(0))
    method = SeparateHeads(net.head)
    carry = method.first_carry(weights)
    trained = {name: jax.tree.map(lambda leaf: 0.5 * leaf, layer) for name, layer in weights.items()}
    head = method.init(jax.random.key(1), trained, carry)
    np.testing.assert_array_equal(head["kernel"], weights["dense2"]["kernel"])
    effective = method.training_weights(trained, head)
    assert effective["dense0"] is trained["dense0"] and effective["dense2"] is head
    assert [method.trains_weights(task) for task in range(3)] == [True, False, False]
    assert not SeparateHeads(net.head, random_weights=True).trains_weights(0)

    heads = arrays["scores"].transpose(0, 3, 4, 2, 1)[:, 0, 0]
    images = arrays["x"][:, :, 0, 0]
    for task in range(3):
        adapter = method.finalize({"kernel": jnp.asarray(heads[task])}, {})
        logits = images @ method.effective_weights({"dense2": {}}, adapter)["dense2"]["kernel"]
        np.testing.assert_allclose(logits, arrays[f"out_task{task}"][:, :, 0, 0], atol=1e-6)


def test_fine_tuning_gives_each_task_the_same_new_head():
    net = networks.LeNet(5, width=0.5, input_shape=(2, 4, 1), initializer=networks.kaiming_normal)
    method, starts = FineTuning(net.head), []
    for seed in (0, 1):
        weights, _ = net.init(jax.random.key(seed))
        carry = method.first_carry(weights)
        starts.append(carry["kernel"])
        assert 0.9 / math.sqrt(50) < np.abs(carry["kernel"]).max() <= 1 / math.sqrt(50)
        head = method.init(jax.random.key(2), weights, method.next_carry(carry, {"kernel": jnp.zeros((50, 5))}))
        assert head is carry
        effective = method.training_weights(weights, head)
        assert effective["dense1"] is weights["dense1"] and effective["dense2"] is head
    assert (starts[0] != starts[1]).all()
    assert all(method.trains_weights(task) for task in range(3))


def test_heads_of_fine_tuning_depend_on_the_seed():
    """This also holds if all base weights have the same magnitude."""
    net, starts = networks.LeNet(5, width=0.2, input_shape=(2, 4, 1)), set()
    for seed in range(4):
        weights, _ = net.init(jax.random.key(seed))
        starts.add(float(FineTuning(net.head).first_carry(weights)["kernel"][0, 0]))
    assert len(starts) == 4


def test_batche_on_random_weights_does_not_train_weights():
    assert [BatchE(random_weights=True).in_turn(task) for task in range(3)] == [False] * 3


def test_an_upper_bound_that_fine_tunes_starts_from_the_last_task():
    weights, ended = {"a": jnp.zeros((2, 2))}, {"a": jnp.ones((2, 2))}
    method = UpperBound(fine_tunes=True)
    assert method.init(jax.random.key(0), weights, method.first_carry(weights)) is weights
    assert method.init(jax.random.key(0), weights, method.next_carry(weights, ended)) is ended
    assert method.in_turn(1) and not UpperBound().in_turn(1)
