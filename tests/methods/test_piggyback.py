"""Piggyback: masks over given weights that never change, and a head for each task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import supsup_jax as ss
from helpers.toys import small_dataset
from supsup_jax import networks, optimizers
from supsup_jax.methods import Piggyback
from supsup_jax.networks.layers import BatchNorm

DATASET = small_dataset()


class Backbone(nn.Module):
    """A convolution and batch norm with gains and biases, and a dense layer."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(8, (2, 2), name="conv")(x)
        x = nn.relu(BatchNorm(affine=True, name="norm")(x, train))
        return nn.Dense(4, use_bias=False, name="head")(x.reshape(len(x), -1))


NET = networks.Network(Backbone(), input_shape=(4, 4, 1), head="head", initializer=networks.kaiming_normal)


def images_of(task):
    """Return training images and labels with permuted pixels."""
    images, labels = DATASET.train
    order = np.random.default_rng(task).permutation(16)
    return images.reshape(-1, 16)[:, order].reshape(-1, 4, 4, 1), labels


@pytest.fixture(scope="module")
def given():
    """Return weights and statistics as of a trained network, with the head of another number of classes."""
    weights, stats = jax.device_get(NET.init(jax.random.key(7)))
    rng = np.random.default_rng(0)
    weights["norm"] = {name: leaf + rng.normal(size=leaf.shape) * 0.1 for name, leaf in weights["norm"].items()}
    weights["head"] = {"kernel": np.ones((128, 9), np.float32)}
    return {"params": weights, "batch_stats": jax.tree.map(lambda leaf: leaf + 0.2, stats)}


@pytest.fixture(scope="module")
def run(given):
    training = ss.Training(steps=150, batch_size=16, optimizer=optimizers.Adam(1e-3, weight_decay=0.0))
    inputs = ss.data.Inputs.new((4, 4, 1), num_classes=4)
    run = ss.Run.new(NET, Piggyback(), inputs=inputs, training=training, scenario=ss.scenarios.GG(), base_weights=given)
    for task in range(3):
        run.learn(images_of(task))
    return run


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_the_given_weights_and_statistics_never_change(run, given):
    for name in ("conv", "norm"):
        jax.tree.map(np.testing.assert_allclose, run.weights[name], given["params"][name])
    for task in range(3):
        assert_equal(run.stats_for(task), given["batch_stats"])


def test_effective_kernels_are_masked_and_other_weights_are_not(run):
    for task in range(3):
        effective = jax.device_get(run.weights_for(task))
        kernel, mask = run.weights["conv"]["kernel"], jax.device_get(run.model.adapter(task))["mask"]["conv"]["kernel"]
        np.testing.assert_array_equal(effective["conv"]["kernel"], kernel * mask)
        assert 0 < mask.mean() < 1 and set(np.unique(mask)) == {0, 1}
        assert_equal(effective["conv"]["bias"], run.weights["conv"]["bias"])
        assert_equal(effective["norm"], run.weights["norm"])


def test_every_task_has_a_mask_and_a_head_of_its_own(run):
    adapters = [jax.device_get(run.model.adapter(task)) for task in range(3)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        for part in ("mask", "head"):
            assert not np.array_equal(*(jax.tree.leaves(adapters[task][part])[0] for task in (first, second)))


def test_tasks_are_learned(run):
    for task in range(3):
        images, labels = images_of(task)
        assert (run.predict(images, task=task).labels == labels).mean() > 0.8, task


def test_a_restored_run_predicts_the_same(run, tmp_path):
    run.save(tmp_path / "run")
    restored = ss.restore(tmp_path / "run", network=NET)
    for task in range(3):
        images, _ = images_of(task)
        np.testing.assert_array_equal(restored.predict(images, task=task).logits, run.predict(images, task=task).logits)
    assert restored.account() == run.account()
    kernel = 2 * 2 * 1 * 8
    assert run.account() == {
        "given weights": 4 * (kernel + 3 * 8),
        "masks as bits": kernel,  # three tasks take one byte for each weight
        "heads": 3 * 4 * 128 * 4,
        "batch-norm statistics": 3 * 4 * 16,
    }


def test_a_score_passes_its_gradient_straight_through():
    """The mask keeps scores of at least the threshold; ∂L/∂S = ∂L/∂W̃ ⊙ W."""
    method = Piggyback(head="head")
    weights = {"conv": {"kernel": jnp.array([[2.0, -3.0]])}, "head": {"kernel": jnp.ones((2, 1))}}
    scores = {"conv": {"kernel": jnp.array([[4.9e-3, 5.1e-3]])}}

    def output(scores):
        adapter = method.finalize({"scores": scores, "head": weights["head"]}, weights)
        return (method.effective_weights(weights, adapter)["conv"]["kernel"] * jnp.array([[10.0, 1.0]])).sum()

    value, gradient = jax.value_and_grad(output)(scores)
    assert value == -3
    np.testing.assert_array_equal(gradient["conv"]["kernel"], [[20, -3]])
    initial = method.init(jax.random.key(0), weights)
    np.testing.assert_array_equal(initial["scores"]["conv"]["kernel"], jnp.full((1, 2), 1e-2))
    assert initial["scores"].keys() == {"conv"}


def test_scores_that_start_below_the_threshold_are_refused():
    with pytest.raises(ss.UserError, match=r"initial_score 0\.001: must be greater than threshold 0\.005"):
        Piggyback(initial_score=1e-3)


def test_networks_without_a_named_last_layer_are_refused():
    with pytest.raises(ss.UserError, match="Piggyback needs to know the last layer"):
        Piggyback().check(networks.Network(Backbone(), input_shape=(4, 4, 1)))
