import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supsup_jax as ss
from helpers.tiers import thorough_but
from helpers.toys import random_masks
from helpers.training import CONV, DENSE, learn
from supsup_jax import bank as banks
from supsup_jax import methods, training

KEY = training.weights_key(1)


def model_of(learned, net):
    return ss.Model.init(net, methods.SupSup(), KEY).extend(learned)


def task_of(learned, task):
    """Return the result of one task, without a task axis."""
    return jax.tree.map(lambda leaf: leaf[task], learned)


@pytest.mark.parametrize("net", thorough_but([CONV], [DENSE, CONV]))
def test_a_model_is_extended_by_one_task_or_several(net):
    learned = learn(range(3), net=net)
    at_once = model_of(learned, net)
    one_by_one = ss.Model.init(net, methods.SupSup(), KEY)
    for task in range(3):
        one_by_one = one_by_one.extend(task_of(learned, task))
        assert one_by_one.num_tasks == task + 1
    jax.tree.map(np.testing.assert_array_equal, one_by_one, at_once)


def test_adapter_and_effective_weights_belong_to_the_task():
    learned = learn(range(3), net=CONV)
    model = model_of(learned, CONV)
    for task in range(3):
        adapter = task_of(learned.adapter, task)
        jax.tree.map(np.testing.assert_array_equal, model.adapter(task), adapter)
        effective = methods.SupSup().effective_weights(model.weights, adapter)
        jax.tree.map(np.testing.assert_array_equal, model.effective_weights(task), effective)
        jax.tree.map(np.testing.assert_array_equal, model.task_stats(task), task_of(learned.stats, task))
    for task in (-1, 3):  # the bank has 8 entries
        for of_task in (model.adapter, model.effective_weights, model.task_stats):
            with pytest.raises(IndexError, match=f"task {task} is not among the 3 tasks of this model"):
                of_task(task)


def test_a_method_without_a_growing_bank_remembers_tasks():
    net = ss.networks.BNNet(10, width=0.01, input_shape=(4, 4, 1))
    method = methods.HopSupSup()
    model = ss.Model.init(net, method, KEY)
    keys = jax.random.split(jax.random.key(0), 2)
    adapter = jax.vmap(lambda key: method.finalize(method.init(key, model.weights), model.weights))(keys)
    learned = training.Learned(adapter, None, None, {}, jnp.zeros((2, 1)), jnp.zeros((2, 1)), jnp.zeros(2, jnp.int32))
    extended = model.extend(learned)
    jax.tree.map(np.testing.assert_array_equal, extended.bank, method.remember(None, adapter))
    assert extended.num_tasks == int(extended.bank.num_tasks) == 2


def test_trained_base_weights_replace_the_old_ones():
    method = methods.LowerBound()
    model = ss.Model.init(DENSE, method, KEY)
    trained = jax.tree.map(lambda leaf: leaf + 1, model.weights)
    learned = training.Learned({}, trained, None, {}, jnp.zeros(1), jnp.zeros(1), jnp.int32(5))
    assert model.extend(learned).weights is trained


@pytest.mark.parametrize("search", thorough_but([ss.OneShot], [ss.OneShot, ss.Binary, ss.Exhaustive]))
def test_tasks_are_inferred_from_a_traced_model(search):
    weights, _ = DENSE.init(KEY)
    bank = banks.pack(random_masks(weights, 5))
    model = ss.Model(net=DENSE, method=methods.SupSup(), num_tasks=5, weights=weights, bank=bank, stats={})
    images = jax.random.normal(jax.random.key(2), (6, *DENSE.input_shape))
    picks = ss.infer(model, images, search(ss.entropy))
    assert picks.dtype == jnp.int32
    np.testing.assert_array_equal(picks, search(ss.entropy)(model, images))
    np.testing.assert_array_equal(jax.jit(search(ss.entropy))(model, images), picks)


def test_counts_are_kept_as_tasks_are_added():
    model = model_of(learn(range(3)), DENSE).extend(task_of(learn(range(3)), 0))
    counted = jax.tree.map(lambda leaf: leaf[0], banks.count(model.bank, jnp.ones((1, 4), bool)))
    assert model.has_counts
    jax.tree.map(np.testing.assert_array_equal, model.counts, counted)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.counts)} == {jnp.dtype("int32")}


def test_models_without_counts_give_the_same_scores():
    model = model_of(learn(range(3)), DENSE)
    bare = dataclasses.replace(model, counts=None, num_counted=0)
    images = jax.random.normal(jax.random.key(2), (2, *DENSE.input_shape))
    assert not bare.has_counts and not bare.extend(task_of(learn(range(3)), 0)).has_counts
    assert bare.with_counts().has_counts
    np.testing.assert_array_equal(ss.OneShot().scores(bare, images), ss.OneShot().scores(model, images))


def test_counts_of_more_tasks_are_not_used():
    model = model_of(learn(range(3)), DENSE)
    fewer = dataclasses.replace(model, num_tasks=2)
    assert not fewer.has_counts
    jax.tree.map(np.testing.assert_array_equal, fewer.with_counts().counts, model_of(learn(range(2)), DENSE).counts)


def test_superpositions_of_all_masks_do_not_read_the_bank(monkeypatch):
    model = model_of(learn(range(3)), DENSE)
    monkeypatch.setattr(banks, "count", None)
    images = jax.random.normal(jax.random.key(2), (5, *DENSE.input_shape))
    assert ss.OneShot().scores(model, images).shape == (5, 3)


@pytest.mark.parametrize("method", [methods.BatchE(), methods.LowerBound()])
def test_methods_without_masks_have_no_counts(method):
    assert method.counts({"kernel": jnp.zeros((3, 4))}, 3) is None


def test_masks_in_a_custom_form_have_no_counts():
    assert methods.SupSup().counts({"kernel": jnp.zeros((3, 4))}, 3) is None
