import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supsup_jax import data, networks, optimizers, training
from supsup_jax.inference.recovery import Recovery
from supsup_jax.methods import HopSupSup


@pytest.fixture(scope="module")
def original(golden):
    """Return the network, weights, memory, test batches and arrays of a recovery by the original."""
    arrays = golden("hop_recovery.npz")
    weights = {f"dense{layer}": {"kernel": jnp.asarray(arrays[f"weight{layer}"][:, :, 0, 0].T)} for layer in range(3)}
    kept = jax.tree.map(lambda _: None, weights)
    for layer in range(2):
        weights[f"gain{layer}"] = {"scale": jnp.ones(16)}
        kept[f"gain{layer}"] = {"scale": jnp.asarray(arrays[f"scores{layer}"] >= 0, jnp.float32)}
    net = networks.Network(networks.mlp.BNMLP((16, 16, 10)))
    images = jnp.asarray(arrays["x_batches"].transpose(0, 1, 3, 4, 2))
    return net, weights, HopSupSup().remember(None, kept), images, arrays


@pytest.mark.parametrize("padding", [0, 3])
def test_a_recovery_equals_the_originals_at_every_step(original, padding):
    net, weights, memory, images, arrays = original
    padded = jnp.concatenate([images, images[:padding]])
    mask, path = Recovery()(net, weights, memory, padded, 5)
    steps = np.arange(1, 6) / 5
    for layer in range(2):
        name = f"gain{layer}"
        np.testing.assert_allclose(memory.matrices[name]["scale"], arrays[f"W{layer}"], atol=1e-6)
        states = np.asarray(path.states[name]["scale"][:5])
        np.testing.assert_array_equal(states, arrays[f"task0_score{layer}_before_step"] >= 0)
        np.testing.assert_array_equal(mask[name]["scale"], arrays[f"task0_score{layer}_final"] >= 0)
        distance = (states != (arrays[f"scores{layer}"][0] >= 0)).sum(1)
        np.testing.assert_array_equal(distance, arrays[f"task0_distance{layer}"])
    np.testing.assert_allclose((1 - steps) * path.entropy[:5], arrays["task0_weighted_entropy"], atol=1e-5)
    np.testing.assert_allclose(1.5e-3 * steps * path.energy[:5], arrays["task0_weighted_hop_loss"], rtol=1e-4)

    effective = HopSupSup().effective_weights(weights, mask)
    right = [
        (net.apply(effective, {}, batch, train=False)[0].argmax(-1) == labels).mean()
        for batch, labels in zip(images, arrays["labels"], strict=True)
    ]
    np.testing.assert_allclose(np.mean(right), arrays["task0_acc"], atol=1e-6)


@pytest.fixture(scope="module")
def split_digits():
    """Return a small network, weights, the masks of five tasks of two digits each, and batches of each task."""
    digits = data.load_digits()
    benchmark, net = data.SplitMNIST.of(digits), networks.BNNet(10, 0.25, digits.image_shape)
    weights, _ = net.init(jax.random.key(1))
    tasks = benchmark.tasks(digits, 0, range(5))

    def learn(task, key):
        learner = training.Learner(net, HopSupSup(), optimizers.SGD(0.1))
        shared = training.Shared(weights, {}, digits.train)
        how = {"benchmark": benchmark, "steps": 60, "batch_size": 32, "validate": lambda *_: jnp.float32(0)}
        return training.train_task(learner, task, key, shared=shared, **how).adapter

    def batches(task, key):
        rows = training.draw_batches(key, benchmark.train_size, benchmark.size(task, True), 20, 32)
        return jax.vmap(lambda rows: benchmark.samples(digits.train, task, rows, True)[0])(rows)

    keys = jax.random.split(jax.random.key(1), 5)
    return net, weights, jax.jit(jax.vmap(learn))(tasks, keys), jax.jit(jax.vmap(batches))(tasks, keys)


def distances(recovery, net, weights, kept, batches):
    """Count the units in which the mask recovered for each task differs from each stored mask."""
    memory = HopSupSup().remember(None, kept)
    found = jax.jit(lambda all_: jax.lax.map(lambda task: recovery(net, weights, memory, task)[0], all_))(batches)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(kept), strict=True)
    return sum(jnp.abs(mask[:, None] - stored).sum(-1) for mask, stored in pairs)


def test_recoveries_end_at_stored_masks_and_the_best_is_the_tasks(split_digits):
    """Every attempt reaches a stored mask; the most certain attempt reaches the task's own."""
    once = distances(Recovery(through_memory=True), *split_digits)
    assert (once.min(1) == 0).all()
    assert (once.argmin(1) != np.arange(5)).any()  # one attempt is not enough
    several = distances(Recovery(through_memory=True, attempts=3), *split_digits)
    np.testing.assert_array_equal(np.diag(several), np.zeros(5))


@pytest.mark.thorough
def test_a_recovery_ends_nearer_to_a_stored_mask_than_it_starts(split_digits):
    net, weights, kept, batches = split_digits
    start = jnp.concatenate(jax.tree.leaves(jax.tree.map(lambda all_: (all_.mean(0) >= 0.5) != all_, kept)), 1).sum(1)
    ends = distances(Recovery(), net, weights, kept, batches).min(1)
    assert (ends < start.min()).all()
