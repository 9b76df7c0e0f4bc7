import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supsup_jax as ss
from helpers.numbers import counted_compilations
from helpers.tiers import thorough_but
from helpers.toys import model_of
from helpers.training import BENCHMARK, CONV, DATASET, DENSE, learn
from supsup_jax import classification, data, evaluation, inference, methods, networks, optimizers, training
from supsup_jax.data import HeldOut, PermutedPixels
from supsup_jax.system import backend, devices


def held_out(benchmark, dataset, tasks):
    return HeldOut(benchmark, dataset.test, tasks, np.arange(len(jax.tree.leaves(tasks)[0])), seed=1)


def first(count):
    """Return the first of five tasks, which are learned only once."""
    return jax.tree.map(lambda leaf: leaf[:count], learn(range(5)))


def evaluate(net, learned, num_tasks, images_per_pick=1, **protocol):
    method = methods.SupSup()
    weights, _ = net.init(training.weights_key(1))
    total = len(learned.loss)
    bank, stats = jax.device_get((method.pack(learned.adapter), learned.stats))
    how = evaluation.Protocol(inference.OneShot(), 40, images_per_pick, **protocol)
    tasks = BENCHMARK.tasks(DATASET, 1, range(total))
    model = model_of(net, weights, bank, num_tasks, stats)
    return evaluation.evaluate(model, held_out(BENCHMARK, DATASET, tasks), how)


@pytest.mark.parametrize("net", thorough_but([DENSE], [DENSE, CONV]))
def test_accuracy_with_the_task_given_is_that_of_training(net):
    learned = learn(range(3), net=net) if net is CONV else first(3)
    measured = evaluate(net, learned, 3)
    np.testing.assert_allclose(measured.given, learned.accuracy[:, -1], atol=1e-6)


def test_accuracies_picks_and_confusion_agree():
    measured = evaluate(DENSE, learn(range(5)), 4, images_per_task=96)
    assert measured.given.shape == (4,)
    assert measured.confusion.sum() == 4 * 3  # three batches: 40, 40 and 16 images
    np.testing.assert_allclose(measured.picked, np.diag(measured.confusion) / 3)
    assert (measured.inferred <= measured.given + 1e-9).all()
    assert (measured.inferred_per_image <= measured.picked_per_image + 1e-9).all()


def test_a_single_task_is_always_inferred():
    measured = evaluate(DENSE, first(1), 1)
    assert measured.picked.tolist() == [1.0]
    np.testing.assert_array_equal(measured.inferred, measured.given)


@pytest.mark.thorough
def test_a_pick_may_need_more_images_than_the_last_batch_has():
    measured = evaluate(DENSE, first(3), 3, images_per_pick=40)
    assert measured.confusion.sum() == 3 * 3


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_parts_of_an_evaluation_are_the_rows_of_the_whole(at_once, monkeypatch):
    learned = learn(range(5))
    whole = evaluate(DENSE, learned, 5, images_per_task=9)
    monkeypatch.setattr(devices, "tasks_at_once", lambda *_: at_once)
    jax.tree.map(np.testing.assert_array_equal, evaluate(DENSE, learned, 5, images_per_task=9), whole)


def test_an_evaluation_can_start_at_any_task():
    weights, _ = DENSE.init(training.weights_key(1))
    bank = methods.SupSup().pack(learn(range(3)).adapter)
    test = held_out(BENCHMARK, DATASET, BENCHMARK.tasks(DATASET, 1, range(3)))
    arguments = model_of(DENSE, weights, bank, 3), test, evaluation.Protocol(inference.OneShot(), 40)
    later = evaluation.concatenate(evaluation.evaluate_in_parts(*arguments, first=1))
    jax.tree.map(
        lambda part, whole: np.testing.assert_array_equal(part, whole[1:]), later, evaluation.evaluate(*arguments)
    )


def test_a_wrong_pick_counts_the_whole_batch_as_wrong():
    is_right = np.array([[1, 1, 0, 1, 1], [1, 0, 1, 1, 1]], bool)
    picks = np.array([[0, 1, 0], [1, 1, 0]])  # batches of 2, 2 and 1 images
    image_picks = np.array([[0, 0, 0], [1, 0, 0]])
    measured = evaluation._Measured(is_right, np.array([5, 5]), picks, image_picks)
    how = evaluation.Protocol(inference.OneShot(), batch_size=2)
    measured = evaluation._summary(measured, np.arange(2), 2, how)
    np.testing.assert_allclose(measured.given, [4 / 5, 4 / 5])
    np.testing.assert_allclose(measured.inferred, [3 / 5, 3 / 5])
    np.testing.assert_allclose(measured.inferred_per_image, [2 / 3, 1 / 3])
    np.testing.assert_allclose(measured.picked, [2 / 3, 2 / 3])
    np.testing.assert_allclose(measured.picked_per_image, [1, 1 / 3])
    np.testing.assert_array_equal(measured.confusion, [[2, 1], [1, 2]])


def test_correct_covers_every_sample_once(monkeypatch):
    monkeypatch.setattr(classification, "IMAGES_AT_ONCE", 7)
    benchmark = PermutedPixels(1, 96, 4, (4, 4, 1), (0.0,), (1.0,))
    net = networks.LeNet(features=8, width=0.1, input_shape=(4, 4, 1))
    weights, stats = net.init(jax.random.key(0))
    (task,) = benchmark.tasks(DATASET, 0, [0])
    images, labels = benchmark.samples(DATASET.test, task, jnp.arange(96), train=False)
    expected = net.apply(weights, stats, images, train=False)[0].argmax(-1) == labels
    actual = classification.correct(net, benchmark, DATASET.test, weights, stats, task)
    np.testing.assert_array_equal(actual, expected)


H, G = inference.entropy, inference.superfluous(real=4)


@pytest.mark.parametrize(
    ("search", "objective", "images_per_pick"),
    thorough_but(
        [(inference.Binary, G, 5)],
        itertools.product([inference.OneShot, inference.Binary], [H, G], [1, 5]),
    ),
)
def test_picks_use_the_first_images_of_each_batch_in_the_fixed_order(search, objective, images_per_pick):
    learned = learn(range(5))
    method = methods.SupSup()
    weights, _ = DENSE.init(training.weights_key(1))
    bank = jax.device_get(method.pack(learned.adapter))
    tasks = BENCHMARK.tasks(DATASET, 1, range(5))
    how = evaluation.Protocol(search(objective), 40, images_per_pick, images_per_task=30)
    model = model_of(DENSE, weights, bank, 5)
    measured = evaluation.evaluate(model, held_out(BENCHMARK, DATASET, tasks), how)
    confusion = np.zeros((5, 5), int)
    per_image = np.zeros(5)
    for task in range(5):
        order = jax.random.permutation(jax.random.fold_in(evaluation.orders_key(1), task), 96)
        images, _ = BENCHMARK.samples(DATASET.test, tasks[task], order, train=False)
        for start in (0, 40, 80):
            first = images[start : start + images_per_pick]
            (pick,) = search(objective)(model, first, images_per_pick)
            confusion[task, pick] += 1
        per_image[task] = (search(objective)(model, images[:30]) == task).mean()
    np.testing.assert_array_equal(measured.confusion, confusion)
    np.testing.assert_allclose(measured.picked_per_image, per_image, atol=1e-6)


@pytest.mark.thorough
def test_evaluating_tasks_side_by_side_gives_the_same_results(monkeypatch):
    """Accelerators evaluate tasks side by side."""
    learned = first(3)
    alone = evaluate(DENSE, learned, 3, images_per_task=7)
    monkeypatch.setattr(backend, "is_accelerator", lambda: True)
    evaluation._over_tasks.cache_clear()
    side_by_side = evaluate(DENSE, learned, 3, images_per_task=7)
    evaluation._over_tasks.cache_clear()
    assert side_by_side.checked is None is alone.checked  # the search is exact
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), side_by_side, alone)


@pytest.mark.thorough
def test_with_shared_labels_an_answer_is_right_if_its_label_is():
    learned = first(3)
    unshared = evaluate(DENSE, learned, 3, images_per_task=96)
    shared = evaluate(DENSE, learned, 3, images_per_task=96, shared_labels=True)
    np.testing.assert_array_equal(shared.confusion, unshared.confusion)
    assert (shared.inferred_per_image >= unshared.inferred_per_image).all()

    weights, _ = DENSE.init(training.weights_key(1))
    tasks = BENCHMARK.tasks(DATASET, 1, range(3))
    bank = methods.SupSup().pack(learned.adapter)
    for task in range(3):
        order = jax.random.permutation(jax.random.fold_in(evaluation.orders_key(1), task), 96)
        images, labels = BENCHMARK.samples(DATASET.test, tasks[task], order, train=False)
        picks = inference.OneShot()(model_of(DENSE, weights, bank, 3), images)
        effective = [
            methods.SupSup().effective_weights(weights, methods.SupSup().unpack(bank, pick)) for pick in range(3)
        ]
        answers = jnp.stack([DENSE.apply(option, {}, images, train=False)[0].argmax(-1) for option in effective])
        np.testing.assert_allclose(
            shared.inferred_per_image[task], (answers[picks, jnp.arange(96)] == labels).mean(), atol=1e-6
        )
        batch_picks = jnp.repeat(picks[jnp.array([0, 40, 80])], 40)[:96]
        np.testing.assert_allclose(
            shared.inferred[task], (answers[batch_picks, jnp.arange(96)] == labels).mean(), atol=1e-6
        )


@pytest.mark.thorough
def test_several_tasks_may_share_one_entry_of_the_model():
    learned = first(3)
    weights, _ = DENSE.init(training.weights_key(1))
    method = methods.SupSup()
    tasks = BENCHMARK.tasks(DATASET, 1, [2, 0, 2])
    how = evaluation.Protocol(inference.OneShot(), 40, images_per_task=8)
    bank = jax.device_get(method.pack(learned.adapter))
    model = model_of(DENSE, weights, bank, 3)
    measured = evaluation.evaluate(model, held_out(BENCHMARK, DATASET, tasks), how, entries=np.array([2, 0, 2]))
    expected = np.asarray(learned.accuracy[:, -1])
    np.testing.assert_allclose(measured.given, expected[[2, 0, 2]], atol=1e-6)
    assert measured.confusion.shape == (3, 3)
    np.testing.assert_allclose(measured.picked, measured.confusion[[0, 1, 2], [2, 0, 2]] / 3)


def test_with_tasks_given_nothing_is_inferred():
    learned = first(2)
    weights, _ = DENSE.init(training.weights_key(1))
    bank = methods.SupSup().pack(learned.adapter)
    tasks = BENCHMARK.tasks(DATASET, 1, range(2))
    how = evaluation.Protocol(None, 40)
    measured = evaluation.evaluate(model_of(DENSE, weights, bank, 2), held_out(BENCHMARK, DATASET, tasks), how)
    np.testing.assert_allclose(measured.given, learned.accuracy[:, -1], atol=1e-6)
    assert set(measured[1:]) == {None}


@pytest.fixture(scope="module")
def split():
    """Return tasks of different sizes: data, network, benchmark, weights, tasks, and the first two tasks learned."""
    digits = data.load_digits()
    benchmark = data.SplitMNIST.of(digits)
    net = networks.LeNet(20, 0.2, digits.image_shape)
    tasks = benchmark.tasks(digits, 0, range(2))
    weights, _ = net.init(jax.random.key(0))

    def train(task, key):
        validate = partial(classification.accuracy, net, benchmark, digits.test)
        learner = training.Learner(net, methods.SupSup(), optimizers.RMSprop(1e-2))
        shared = training.Shared(weights, {}, digits.train)
        how = {"benchmark": benchmark, "steps": 60, "batch_size": 32, "validate": validate}
        return training.train_task(learner, task, key, shared=shared, **how)

    return digits, benchmark, net, weights, tasks, jax.jit(jax.vmap(train))(tasks, jax.random.split(jax.random.key(1)))


@pytest.mark.thorough
def test_tasks_of_different_sizes_are_evaluated_on_their_own_samples(split):
    digits, benchmark, net, weights, tasks, learned = split
    method, how = methods.SupSup(), evaluation.Protocol(inference.OneShot(), 30, 7)
    bank = jax.device_get(method.pack(learned.adapter))
    measured = evaluation.evaluate(model_of(net, weights, bank, 2), held_out(benchmark, digits, tasks), how)
    for number in range(2):
        task = jax.tree.map(lambda leaf, number=number: leaf[number], tasks)
        size = int(benchmark.size(task, train=False))
        images, labels = benchmark.samples(digits.test, task, jnp.arange(size), train=False)
        effective = method.effective_weights(weights, method.unpack(bank, number))
        right = net.apply(effective, {}, images, train=False)[0].argmax(-1) == labels
        np.testing.assert_allclose(measured.given[number], right.mean(), atol=1e-6)
        np.testing.assert_allclose(learned.accuracy[number, -1], right.mean(), atol=1e-6)
        assert measured.confusion[number].sum() == -(-size // 30)
    assert (measured.inferred <= measured.given + 1e-9).all()
    assert (learned.accuracy[:, -1] > 0.9).all()


def test_each_epoch_of_a_smaller_task_has_each_sample_once():
    rows = training.draw_batches(jax.random.key(0), 12, jnp.int32(8), 4, 4).reshape(-1)
    assert sorted(rows[:8].tolist()) == sorted(rows[8:].tolist()) == list(range(8))
    assert rows[:8].tolist() != rows[8:].tolist()


def test_a_model_is_evaluated_on_the_test_images_of_a_benchmark():
    learned = first(2)
    weights, _ = DENSE.init(training.weights_key(1))
    model = model_of(DENSE, weights, methods.SupSup().pack(learned.adapter), 2)
    how = evaluation.Protocol(inference.OneShot(), 40)
    measured = ss.evaluate(model, BENCHMARK.test(DATASET, [0, 1], seed=1), how)
    expected = evaluate(DENSE, learned, 2)
    np.testing.assert_array_equal(measured.given, expected.given)
    np.testing.assert_array_equal(measured.inferred, expected.inferred)


def test_evaluations_of_different_numbers_of_few_tasks_share_a_program(monkeypatch):
    first(5)  # trains, which compiles a program too
    with counted_compilations() as counts:
        measured = [evaluate(DENSE, first(count), count, images_per_task=9) for count in (2, 3, 5)]
    assert counts["jit(mapped)"] == 1
    monkeypatch.setattr(inference.padded, "_CAPACITY", 0)
    for count, found in zip((2, 3, 5), measured, strict=True):
        exact = evaluate(DENSE, first(count), count, images_per_task=9)
        jax.tree.map(np.testing.assert_array_equal, found, exact)
        assert found.confusion is not None
        assert found.confusion.shape == (count, count)


def test_tasks_that_only_fill_the_bank_are_not_picked():
    def certainty(logits):
        return -inference.entropy(logits)

    learned = first(3)
    weights, _ = DENSE.init(training.weights_key(1))
    model = model_of(DENSE, weights, methods.SupSup().pack(learned.adapter), 3)
    images = jax.random.normal(jax.random.key(0), (12, *DENSE.input_shape))
    search = inference.OneShot(certainty)
    assert (search.scores(model, images).min(1) > 0).any()  # other tasks have a score of 0
    full = inference.padded.padded(model.with_counts(), search)
    assert full.num_tasks > 3
    picks = inference.padded.pick_among(search, full, jnp.int32(3), images, 1)
    np.testing.assert_array_equal(picks, search(model, images))
