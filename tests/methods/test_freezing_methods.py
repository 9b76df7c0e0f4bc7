"""PackNet, WSN, ExSSNeT and HAT: tasks change no weights that earlier tasks use."""

import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supsup_jax as ss
from helpers.toys import small_dataset
from supsup_jax import bank, masks, networks, optimizers
from supsup_jax.methods import HAT, WSN, ExSSNeT, Moment, PackNet
from supsup_jax.methods.supsup import BITS, SPARSE
from supsup_jax.methods.wsn import HUFFMAN
from supsup_jax.runs import records

NET = networks.LeNet(features=4, width=0.1, input_shape=(4, 4, 1))
METHODS = [PackNet(), WSN(), ExSSNeT(), HAT()]
OPTIMIZERS = [optimizers.Adam(1e-2, weight_decay=1e-3), optimizers.SGD(0.05, weight_decay=1e-2)]
DATASET = small_dataset()


def images_of(task):
    """Return training images and labels with permuted pixels."""
    images, labels = DATASET.train
    order = np.random.default_rng(task).permutation(16)
    return images.reshape(-1, 16)[:, order].reshape(-1, 4, 4, 1), labels


def learned(method, optimizer=OPTIMIZERS[0], num_tasks=3, steps=100, **training):
    """Return a run of tasks, and the logits of each task right after it was learned."""
    settings = ss.Training(
        steps=steps, batch_size=16, optimizer=optimizer, weights_learning_rate=optimizer.learning_rate, **training
    )
    inputs = ss.data.Inputs.new((4, 4, 1), num_classes=4)
    run = ss.Run.new(NET, method, inputs=inputs, training=settings, scenario=ss.scenarios.GG())
    logits = []
    for task in range(num_tasks):
        run.learn(images_of(task))
        logits.append(logits_of(run, task))
    return run, logits


def logits_of(run, task):
    return run.predict(images_of(task)[0], task=task).logits


@pytest.fixture(scope="module", params=METHODS, ids=lambda method: type(method).__name__)
def run_and_logits(request):
    return learned(request.param)


def test_later_tasks_do_not_change_earlier_ones(run_and_logits):
    run, logits = run_and_logits
    for task, expected in enumerate(logits):
        np.testing.assert_array_equal(logits_of(run, task), expected)


def test_tasks_are_learned(run_and_logits):
    run, _ = run_and_logits
    for task in range(2):
        images, labels = images_of(task)
        assert (run.predict(images, task=task).labels == labels).mean() > 0.7, task


@pytest.mark.thorough
def test_a_run_is_restored_and_learns_the_same_next_task(run_and_logits, tmp_path):
    run, logits = run_and_logits
    short, _ = learned(run.experiment.method, num_tasks=2)
    short.save(tmp_path / "run")
    restored = ss.restore(tmp_path / "run")
    restored.learn(images_of(2))
    np.testing.assert_array_equal(logits_of(restored, 2), logits[2])


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_momentum_and_weight_decay_do_not_change_frozen_weights(method):
    run, logits = learned(method, OPTIMIZERS[1])
    for task, expected in enumerate(logits):
        np.testing.assert_array_equal(logits_of(run, task), expected)


def sizes(run):
    return [kernel.size for kernel in jax.tree.leaves(run.weights)]


def test_packnet_keeps_half_of_the_free_weights_per_task():
    run, _ = learned(PackNet(keep=0.5), steps=6)
    for size, mask in zip(sizes(run), jax.tree.leaves(run.method.unpack(run.model.bank, 0)), strict=True):
        assert mask.sum() == round(size / 2)
    for task in (1, 2):
        before, after = (jax.tree.leaves(run.method.unpack(run.model.bank, number)) for number in (task - 1, task))
        for old, new in zip(before, after, strict=True):
            assert (new >= old).all()
            assert new.sum() - old.sum() == pytest.approx((old.size - old.sum()) / 2, abs=1)


def test_packnet_prunes_the_smallest_free_weights():
    weights = {"a": {"kernel": jnp.array([[3.0, -0.1, 2.0], [0.5, -4.0, 1.0]])}}
    used = {"a": {"kernel": jnp.array([[False, True, False], [False, False, False]])}}
    params = {"used": used, "mask": jax.tree.map(jnp.ones_like, used)}
    pruned, params = PackNet(keep=0.4).begin_phase(1, weights, params)
    np.testing.assert_array_equal(params["mask"]["a"]["kernel"], [[True, True, False], [False, True, False]])
    np.testing.assert_allclose(pruned["a"]["kernel"], [[3, -0.1, 0], [0, -4, 0]])


def test_exssnet_trains_scores_first_and_then_weights():
    method = ExSSNeT(masks.TopK(0.3), weight_share=0.5)
    run, _ = learned(method, num_tasks=1)
    fresh, _ = NET.init(ss.training.weights_key(run.experiment.seed))
    mask = jax.device_get(run.mask(0))
    for before, after, kept in zip(*map(jax.tree.leaves, (fresh, run.weights, mask)), strict=True):
        changed = np.asarray(before) != np.asarray(after)
        assert changed.any() and not changed[~kept.astype(bool)].any()


def test_wsn_counts_its_masks_in_a_huffman_code():
    bits = np.array([[1, 0, 1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0, 0]], bool)  # 2 tasks: symbols 3, 0, 1, 3, 0 ...
    packed = bank.pack({"a": jnp.asarray(bits)})
    run, _ = learned(WSN(), num_tasks=1, steps=2)
    account = run.method.account({"a": jnp.zeros(8)}, packed, 2)
    symbols = [5, 2, 1]  # counts: the code has 1 bit for the first one, and 2 bits for each of the others
    assert heapq.nsmallest(3, symbols) == [1, 2, 5] and account[HUFFMAN] == -(-(5 + 2 * 2 + 2) // 8)


def test_the_masks_of_wsn_count_once_in_the_total_number_of_bytes():
    run, _ = learned(WSN(), num_tasks=1, steps=2)
    account = run.account()
    assert records.total(account) == account["shared weights"] + account[BITS]
    assert records.total_of_paper(account) == account["shared weights"] + account[SPARSE]


def test_gates_of_hat_are_binary_at_the_end_of_training():
    run, _ = learned(HAT(), num_tasks=1)
    gates = {"dense0": jnp.array([3.0, -2.0]), "dense1": jnp.array([0.5, -0.1])}
    weights = {name: {"kernel": jnp.ones((2, 2))} for name in ("dense0", "dense1", "dense2")}
    method, params = HAT(head="dense2"), {"gates": gates, "head": weights["dense2"]}
    first, last = (method.weights_at(weights, params, Moment(0, share)) for share in (0.0, 1.0))
    np.testing.assert_allclose(first["dense0"]["kernel"], 0.5, atol=0.01)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), last, method.training_weights(weights, params)
    )
    assert run.account().keys() == {"shared weights", "gates and heads"}


def test_gates_that_stay_between_0_and_1_are_kept_and_protected():
    """Rounding them changed the outputs of a task at its end, by points of accuracy."""
    method, e = HAT(s_max=100.0), jnp.array([0.5, 0.004, -0.004, -0.06])
    params = {"gates": {"a": e}, "head": {}}
    gates = method.finalize(params, {})["gates"]["a"]
    np.testing.assert_allclose(gates, [1, jax.nn.sigmoid(0.4), jax.nn.sigmoid(-0.4), 0], atol=1e-6)
    np.testing.assert_array_equal(method.next_carry({"a": jnp.zeros(4)}, params)["a"], [1, 1, 1, 0])


def test_hat_protects_a_weight_between_two_used_units():
    kernels = {name: {"kernel": jnp.ones((2, 2))} for name in ("dense0", "dense1", "dense2")}
    used = {"dense0": jnp.array([1.0, 0.0]), "dense1": jnp.array([1.0, 0.0])}
    shares = HAT(head="dense2").update_share(kernels, {"used": used}, 0)
    np.testing.assert_array_equal(shares["dense0"]["kernel"], [[0, 1], [0, 1]])
    np.testing.assert_array_equal(shares["dense1"]["kernel"], [[0, 1], [1, 1]])


def test_hat_refuses_networks_whose_layers_are_no_chain():
    with pytest.raises(ss.UserError, match="HAT needs layers that form a chain"):
        HAT().check(networks.GEMResNet18(5, input_shape=(32, 32, 3)))


def test_tasks_on_disk_refuse_methods_of_several_phases():
    with pytest.raises(ss.UserError, match="tasks on disk need a method with a single phase, unlike ExSSNeT"):
        ss.Experiment(
            "x",
            ss.data.SplitImageNet(num_tasks=2),
            networks.ResNet18(10, input_shape=(32, 32, 3)),
            ExSSNeT(),
            ss.scenarios.GG(),
        )


def test_gradients_of_gates_do_not_vanish_for_large_scales():
    """They are compensated by s_max / s (cosh(s e) + 1) / (cosh(e) + 1), as in the paper."""
    method, e = HAT(s_max=50.0), jnp.array([-0.3, 0.1, 0.5])
    scale = 1 / 50 + (50 - 1 / 50) * 0.3
    plain = jax.vmap(jax.grad(lambda value: jax.nn.sigmoid(scale * value)))(e)
    expected = plain * 50 / scale * (jnp.cosh(scale * e) + 1) / (jnp.cosh(e) + 1)

    def gate(value):
        return method._gates({"a": value}, Moment(0, 0.3))["a"]

    np.testing.assert_allclose(jax.vmap(jax.grad(gate))(e), expected, rtol=1e-4)
    np.testing.assert_allclose(gate(e), jax.nn.sigmoid(scale * e), rtol=1e-6)
