import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.tiers import thorough_but
from helpers.toys import conv_net, model_of, random_masks
from supsup_jax import bank as banks
from supsup_jax import inference, masks, methods, networks
from supsup_jax.bank import bits
from supsup_jax.inference import binary
from supsup_jax.system import backend

SEARCHES = [inference.OneShot, inference.Binary]
OBJECTIVES = {"H": inference.entropy, "G": inference.superfluous(real=2)}


def setting(tasks=11, batch=6, net=None):
    net = net or networks.LeNet(features=7, width=0.05, input_shape=(5, 5, 1))
    weights, stats = net.init(jax.random.key(0))
    everything = random_masks(weights, tasks)
    images = jax.random.normal(jax.random.key(2), (batch, 5, 5, 1))
    return net, weights, stats, everything, images


def packed(net, weights, stats, everything, tasks):
    """Return a model of masks whose tasks all have the same statistics."""
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * tasks), stats)
    return model_of(net, weights, banks.pack(everything), tasks, stacked)


def textbook(net, weights, stats, everything, image, alphas, objective):
    """Return the loss and its gradient by definition: superpose float masks, differentiate with respect to α."""

    def loss(alphas):
        mixed = jax.tree.map(lambda w, m: w * jnp.tensordot(alphas, m, 1), weights, everything)
        return objective(net.apply(mixed, stats, image, train=False)[0]).mean()

    return loss, jax.grad(loss)(alphas)


@pytest.mark.parametrize(
    ("net", "objective", "per_image_alphas"),
    thorough_but(
        [("convolutions with batch norm", "G", True)],
        itertools.product(["dense", "convolutions with batch norm"], OBJECTIVES, [False, True]),
    ),
)
def test_alpha_gradient_is_the_textbook_derivative_for_every_image(net, objective, per_image_alphas):
    net, objective = None if net == "dense" else conv_net(), OBJECTIVES[objective]
    net, weights, stats, everything, images = setting(net=net)
    alphas = jax.random.uniform(jax.random.key(3), (6, 11) if per_image_alphas else (11,))
    actual = inference.alpha_gradient(packed(net, weights, stats, everything, 11), images, alphas, objective)
    for image, alpha, derivatives in zip(images, jnp.broadcast_to(alphas, (6, 11)), actual, strict=True):
        _, expected = textbook(net, weights, stats, everything, image[None], alpha, objective)
        np.testing.assert_allclose(derivatives, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_alpha_gradient_of_the_entropy_equals_finite_differences():
    net, weights, stats, everything, images = setting(tasks=4, batch=1)
    alphas = np.array([0.4, 0.1, 0.2, 0.3])
    actual = inference.alpha_gradient(packed(net, weights, stats, everything, 4), images, jnp.float32(alphas))
    step = 1e-6
    with jax.enable_x64(True):  # in single precision a step small enough to miss the ReLUs' kinks drowns in rounding
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (weights, stats, everything, images))
        loss, _ = textbook(net, *exact, jnp.asarray(alphas), inference.entropy)
        steps = step * np.eye(4)
        expected = [float(loss(alphas + delta) - loss(alphas - delta)) / (2 * step) for delta in steps]
    np.testing.assert_allclose(actual[0], expected, rtol=1e-4)


def test_the_objectives_of_the_images_of_a_pick_are_averaged():
    net, weights, stats, everything, images = setting()
    alphas = jnp.full(11, 1 / 11)
    args = (packed(net, weights, stats, everything, 11), images, alphas, inference.entropy)
    single = inference.alpha_gradient(*args)
    grouped = inference.alpha_gradient(*args, images_per_pick=3)
    np.testing.assert_allclose(grouped, single.reshape(2, 3, 11).mean(1), rtol=1e-4, atol=1e-6)


def test_images_that_do_not_divide_into_picks_are_refused():
    net, weights, stats, everything, images = setting()
    with pytest.raises(ValueError, match="6 images do not divide into picks of 4"):
        inference.OneShot()(packed(net, weights, stats, everything, 11), images, images_per_pick=4)


@pytest.mark.parametrize(
    ("search", "objective"),
    thorough_but([(inference.OneShot, "H"), (inference.Binary, "G")], itertools.product(SEARCHES, OBJECTIVES)),
)
def test_permuting_tasks_permutes_picks(search, objective):
    objective = OBJECTIVES[objective]
    net, weights, stats, everything, images = setting()
    order = np.random.default_rng(0).permutation(11)
    permuted = jax.tree.map(lambda leaf: leaf[order], everything)
    picks = search(objective)(packed(net, weights, stats, everything, 11), images)
    again = search(objective)(packed(net, weights, stats, permuted, 11), images)
    np.testing.assert_array_equal(order[again], picks)


def test_superfluous_requires_at_least_one_output_for_classes():
    for real in (0, -1):
        with pytest.raises(ValueError, match="must be from 1"):
            inference.superfluous(real)


@pytest.mark.parametrize(("picks", "at_once"), [(1, 1), (3, 3), (4, 4), (5, 4), (1000, 4)])
def test_the_memory_of_a_search_grows_only_up_to_one_chunk(picks, at_once, monkeypatch):
    weights = {"kernel": np.zeros((10, 3), np.float32)}
    monkeypatch.setattr(backend, "gradient_bytes", lambda: 4 * 120)
    assert inference.memory(weights, picks) == 5 * 120 * at_once


@pytest.mark.parametrize("search", thorough_but([inference.OneShot], SEARCHES))
def test_picks_are_the_same_alone_in_a_batch_and_in_chunks(search, monkeypatch):
    net, weights, stats, everything, images = setting()
    model = packed(net, weights, stats, everything, 11)
    together = inference.infer(model, images, search())
    alone = [inference.infer(model, image[None], search())[0] for image in images]
    np.testing.assert_array_equal(together, alone)
    chunk = 5 * sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
    monkeypatch.setattr(backend, "gradient_bytes", lambda: chunk)
    images = jnp.concatenate([images, images[:2]])  # a new number of images, so that the search is compiled again
    parts, scan = [], backend.scan_chunks
    monkeypatch.setattr(backend, "scan_chunks", lambda *arguments: parts.append(arguments[2]) or scan(*arguments))
    np.testing.assert_array_equal(inference.infer(model, images, search())[:6], together)
    assert set(parts) == {2}  # of 8 images, at most 5 at once


@pytest.mark.parametrize("search", thorough_but([inference.Binary], SEARCHES))
def test_only_learned_tasks_are_picked(search):
    net, weights, stats, everything, images = setting()
    first_masks = jax.tree.map(lambda leaf: leaf[:3], everything)
    how = search(inference.superfluous(real=2))
    picks = how(packed(net, weights, stats, everything, 3), images)
    np.testing.assert_array_equal(picks, how(packed(net, weights, stats, first_masks, 3), images))
    assert how(packed(net, weights, stats, everything, 1), images).tolist() == [0] * 6


@pytest.mark.parametrize(("base", "tasks"), thorough_but([(3, 5)], itertools.product([2, 3, 7], [1, 2, 3, 5, 8, 11])))
def test_every_round_of_binary_keeps_the_best_share(tasks, base):
    net, weights, stats, everything, images = setting(tasks)
    model = packed(net, weights, stats, everything, tasks)
    path = inference.binary_path(model, images, base=base)
    picks = inference.Binary(base=base)(model, images)
    assert picks.tolist() == path[-1].argmax(-1).tolist()
    assert len(path) == math.ceil(math.log(tasks, base) - 1e-9) + 1
    for before, after in itertools.pairwise(path):
        gradient = inference.alpha_gradient(model, images, before)
        for image in range(len(images)):
            alive = np.flatnonzero(before[image])
            kept = np.flatnonzero(after[image])
            assert len(kept) == math.ceil(len(alive) / base)
            best = alive[np.argsort(gradient[image][alive], kind="stable")][: len(kept)]
            assert set(kept) == set(best)
            np.testing.assert_allclose(after[image][kept], 1 / len(kept))


@pytest.mark.parametrize(("base", "images_per_pick"), thorough_but([(2, 1)], [(2, 1), (2, 3), (3, 1)]))
def test_binary_finds_the_same_in_a_bank_of_the_last_tasks(base, images_per_pick, monkeypatch):
    net, weights, stats, everything, images = setting(40)
    model = packed(net, weights, stats, everything, 40)
    expected = inference.binary_path(model, images, images_per_pick=images_per_pick, base=base)
    taken, take = [], bits.take
    monkeypatch.setattr(bits, "take", lambda bank, tasks: taken.append(len(tasks)) or take(bank, tasks))
    monkeypatch.setattr(binary, "_LARGE", 40)
    monkeypatch.setattr(binary, "_FEWER", 4)
    jax.clear_caches()
    found = inference.binary_path(model, images, images_per_pick=images_per_pick, base=base)
    assert taken == [10 if base == 2 else 5]
    np.testing.assert_array_equal(found, expected)


def test_ties_of_binary_go_to_the_lowest_numbers():
    net, weights, stats, everything, images = setting(5)
    same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), everything)
    path = inference.binary_path(packed(net, weights, stats, same, 5), images)
    assert [np.flatnonzero(alphas[0]).tolist() for alphas in path] == [
        [0, 1, 2, 3, 4],
        [0, 1, 2],
        [0, 1],
        [0],
    ]


def test_entropy_of_uniform_and_of_certain_outputs():
    logits = jnp.array([[0.0, 0.0, 0.0, 0.0], [1000.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(inference.entropy(logits), [math.log(4), 0], atol=1e-6)


def test_superfluous_has_gradient_only_at_superfluous_neurons():
    logits = jnp.array([[1.0, 2.0, 3.0, 4.0]])
    objective = inference.superfluous(real=2)
    gradient = jax.grad(lambda logits: objective(logits).sum())(logits)
    np.testing.assert_allclose(gradient[0], [0, 0, *jax.nn.softmax(logits[0])[2:]], rtol=1e-6)


def test_superfluous_is_the_log_probability_of_superfluous_neurons():
    fits, does_not = [9.0, 1.0, -30.0, -30.0], [3.0, 2.0, 1.0, 1.0]
    logits = jnp.array([fits, does_not])
    expected = [math.log(2) - 39 - math.log1p(math.exp(-8)), math.log(jax.nn.softmax(logits[1])[2:].sum())]
    np.testing.assert_allclose(inference.superfluous(real=2)(logits), expected, rtol=1e-5)


# Comparison with the original implementation. Logits reach 10 in size, so single-precision sums of 784 terms differ in
# the sixth digit: NumPy's deviate from the exact values by 2e-5, the original's by 4e-6.


@pytest.fixture(scope="module")
def original(golden):
    arrays = golden("supermask_threshold.npz")
    net = networks.LeNet(features=20, width=0.1)
    weights, everything = (
        {
            f"dense{j}": {"kernel": jnp.asarray(arrays[f"{name}{j}"][..., 0, 0].swapaxes(-1, -2), jnp.float32)}
            for j in range(3)
        }
        for name in ("weight", "scores")
    )
    flat = arrays["x"].reshape(16, 784)
    images = jnp.stack([jnp.asarray(flat[:, perm]).reshape(16, 28, 28, 1) for perm in arrays["perms"]])
    return arrays, net, weights, everything, images


def test_masks_and_logits_equal_the_originals(original):
    arrays, net, weights, scores, images = original
    found = masks.threshold(scores)
    for j in range(3):
        expected = arrays[f"masks{j}"][..., 0, 0].swapaxes(-1, -2)
        np.testing.assert_array_equal(found[f"dense{j}"]["kernel"], expected)
    for task in range(6):
        effective = jax.tree.map(lambda w, m, task=task: w * m[task], weights, found)
        logits, _ = net.apply(effective, {}, images[task], train=False)
        np.testing.assert_allclose(logits, arrays["logits_given_task"][task], rtol=1e-5, atol=1e-5)
    for learned, name in ((6, "superposed_logits"), (5, "superposed_logits_learned5")):
        bank = banks.first(banks.pack(found), learned)
        mixed = jax.tree.map(
            lambda w, m, learned=learned: w * m[0] / learned,
            weights,
            banks.count(bank, jnp.ones((1, learned), bool)),
        )
        for task in range(learned):
            logits, _ = net.apply(mixed, {}, images[task], train=False)
            np.testing.assert_allclose(logits, arrays[name][task], rtol=1e-5, atol=1e-5)


def test_score_gradients_equal_the_originals(original):
    from supsup_jax.methods import SupSup

    arrays, net, weights, scores, images = original
    labels = jnp.asarray(arrays["labels"])

    def loss(scores):
        logits, _ = net.apply(SupSup().training_weights(weights, scores), {}, images[2], train=True)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    value, gradient = jax.value_and_grad(loss)(jax.tree.map(lambda leaf: leaf[2], scores))
    np.testing.assert_allclose(value, arrays["ce_task2"], atol=1e-5)
    for j in range(3):
        expected = arrays[f"grad_ce_scores{j}_task2"][..., 0, 0].T
        np.testing.assert_allclose(gradient[f"dense{j}"]["kernel"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("learned", "images_per_pick", "letter"),
    thorough_but([(6, 1, "H"), (5, 16, "G")], itertools.product([6, 5], [1, 16], ["H", "G"])),
)
def test_alpha_gradients_and_picks_equal_the_originals(original, letter, images_per_pick, learned):
    arrays, net, weights, scores, images = original
    objective = inference.entropy if letter == "H" else inference.superfluous(real=10)
    bank = banks.pack(masks.threshold(scores))
    known = images[:learned, :images_per_pick].reshape(-1, 28, 28, 1)
    args = model_of(net, weights, bank, learned), known
    suffix = "" if learned == 6 else "_learned5"
    several = "" if images_per_pick == 1 else "_all16"

    gradient = inference.alpha_gradient(*args, jnp.full(learned, 1 / learned), objective, images_per_pick)
    expected = arrays[f"grad_alpha_{letter}_{'first' if images_per_pick == 1 else 'all16'}{suffix}"]
    np.testing.assert_allclose(gradient, expected[:, :learned], atol=1e-4)

    for search, name in ((inference.OneShot, "oneshot"), (inference.Binary, "binary")):
        picks = search(objective)(*args, images_per_pick)
        np.testing.assert_array_equal(picks, arrays[f"pick_{name}_{letter}{suffix}{several}"])

    path = inference.binary_path(*args, objective, images_per_pick).swapaxes(0, 1)
    np.testing.assert_allclose(
        path, arrays[f"alphas_binary_{letter}{suffix}{several}"][:, : path.shape[1], :learned], atol=1e-6
    )


def test_exhaustive_search_picks_the_same_tasks_as_the_original(golden):
    arrays = golden("batche.npz")
    net = networks.Network(networks.mlp.MLP((15, 5, 10)))
    weights, bank = {}, {}
    for layer in range(3):
        weights[f"dense{layer}"] = {"kernel": jnp.asarray(arrays[f"lenet_weight{layer}"][:, :, 0, 0].T)}
        adapter = {name: jnp.asarray(arrays[f"lenet_{name}{layer}"][:, 0]) for name in "st"}
        bank[f"dense{layer}"] = {"kernel": adapter}
    images = jnp.asarray(arrays["lenet_x"].transpose(0, 2, 3, 1))
    for task in range(4):
        effective = methods.BatchE().effective_weights(weights, methods.BatchE().unpack(bank, task))
        logits, _ = net.apply(effective, {}, images, train=False)
        np.testing.assert_allclose(logits, arrays["lenet_logits_per_task"][task], rtol=1e-5, atol=1e-4)
    for name, objective in (("entropy", inference.entropy), ("max", inference.maximum)):
        for repeat in (1, 2):
            first = images.reshape(4, 2, 28, 28, 1)[:, :repeat].reshape(-1, 28, 28, 1)
            model = model_of(net, weights, bank, 4, method=methods.BatchE())
            picks = inference.Exhaustive(objective)(model, first, repeat)
            np.testing.assert_array_equal(picks, arrays[f"lenet_pick_{name}_repeat{repeat}"])


@pytest.mark.parametrize(
    ("method", "images_per_pick"),
    thorough_but([("SupSup", 3)], itertools.product(["SupSup", "PSP", "UpperBound"], [1, 3])),
)
def test_exhaustive_search_equals_brute_force_for_any_method(method, images_per_pick):
    net, method = conv_net(), getattr(methods, method)()
    weights, stats = net.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 5)
    bank = method.pack(jax.vmap(lambda key: method.finalize(method.init(key, weights), weights))(keys))
    stats = jax.tree.map(lambda leaf: leaf + jax.random.uniform(jax.random.key(2), (5, *leaf.shape)), stats)
    images = jax.random.normal(jax.random.key(3), (6, 5, 5, 1))
    expected = []
    for group in images.reshape(-1, images_per_pick, 5, 5, 1):
        entropies = []
        for task in range(5):
            effective = method.effective_weights(weights, method.unpack(bank, task))
            task_stats = jax.tree.map(lambda leaf, task=task: leaf[task], stats)
            entropies.append(inference.entropy(net.apply(effective, task_stats, group, train=False)[0]).mean())
        expected.append(int(np.argmin(entropies)))
    picks = inference.Exhaustive()(model_of(net, weights, bank, 5, stats, method), images, images_per_pick)
    assert picks.tolist() == expected


@pytest.mark.parametrize("images_per_pick", [1, 4])
def test_exhaustive_search_by_superfluous_neurons_finds_the_task(images_per_pick):
    net = networks.Network(networks.mlp.MLP((4,)), input_shape=(1, 3, 1))
    # Pixel t is bright in task t, whose weights raise its class at that pixel and lower the superfluous neurons.
    bank = {"dense0": {"kernel": 5 * jnp.eye(3)[:, :, None] * jnp.array([1.0, 0.0, -1.0, -1.0])}}
    method = methods.UpperBound()
    model = model_of(net, {"dense0": {"kernel": jnp.zeros((3, 4))}}, bank, 3, method=method)
    images = jnp.repeat(jnp.eye(3), 4, axis=0).reshape(12, 1, 3, 1)
    picks = inference.Exhaustive(inference.superfluous(real=2))(model, images, images_per_pick)
    assert picks.tolist() == np.repeat([0, 1, 2], 4 // images_per_pick).tolist()


@pytest.mark.parametrize("search", thorough_but([inference.Exhaustive], [inference.OneShot, inference.Exhaustive]))
def test_the_picked_task_has_the_smallest_score(search):
    net, how = conv_net(), search()
    weights, stats = net.init(jax.random.key(0))
    bank = banks.pack(random_masks(weights, 5))
    stats = jax.tree.map(lambda leaf: leaf + jax.random.uniform(jax.random.key(2), (5, *leaf.shape)), stats)
    images = jax.random.normal(jax.random.key(3), (6, 5, 5, 1))
    model = model_of(net, weights, bank, 5, stats)
    picks, scores = how(model, images), how.scores(model, images)
    assert scores.shape == (6, 5)
    np.testing.assert_array_equal(picks, scores.argmin(-1))


def test_gradient_among_some_tasks_equals_alpha_gradient():
    net = conv_net()
    weights, stats = net.init(jax.random.key(0))
    model = packed(net, weights, stats, random_masks(weights, 11), 11)
    images = jax.random.normal(jax.random.key(1), (3, 5, 5, 1))
    chosen = np.arange(11) % 3 == 0
    actual = inference.gradient_among(model, chosen, images)
    expected = inference.alpha_gradient(model, images, jnp.asarray(chosen / chosen.sum(), jnp.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
