import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.toys import ConvNet, model_of
from supsup_jax import bank as banks
from supsup_jax import data, inference, networks, optimizers, training
from supsup_jax.scenarios.discovery import Learner, Rule

DIGITS = data.load_digits()
BENCHMARK = data.PermutedMNIST.of(DIGITS)
NET = networks.LeNet(100, input_shape=DIGITS.image_shape)
WEIGHTS, STATS = NET.init(jax.random.key(0))
BATCHES, BATCH = 150, 64
LEARNER = Learner(NET, optimizer=optimizers.RMSprop(1e-3), rule=Rule(check_every=BATCHES, novelty=1.3))


@jax.jit
def batches(task, key):
    rows = training.draw_batches(key, BENCHMARK.train_size, BENCHMARK.train_size, BATCHES, BATCH)
    return jax.vmap(lambda rows: BENCHMARK.samples(DIGITS.train, task, rows, True))(rows)


def stream(numbers):
    """Return batches of several tasks, one task after another."""
    pieces = [batches(task, jax.random.key(visit)) for visit, task in enumerate(BENCHMARK.tasks(DIGITS, 0, numbers))]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *pieces)


def learn(numbers, learner=LEARNER, state=None, **options):
    state = learner.init(WEIGHTS) if state is None else state
    return learner.learn(state, WEIGHTS, STATS, *stream(numbers), **options)


def runs(slots):
    """Return the slot of each visit to a task; each visit must have used only one slot."""
    visits = slots.reshape(-1, BATCHES)
    assert (visits == visits[:, :1]).all()
    return visits[:, 0].tolist()


@pytest.fixture(scope="module")
def four():
    return learn([0, 1, 2, 3])


def test_very_different_tasks_are_discovered_one_by_one(four):
    state, slots = four
    assert runs(slots) == [0, 1, 2, 3]
    assert len(state.slots) == 4


@pytest.mark.thorough
def test_after_a_late_check_a_task_shares_the_previous_slot():
    learner = Learner(NET, optimizer=LEARNER.optimizer, rule=Rule(check_every=BATCHES))
    images, labels = stream([0, 1, 1])
    late = BATCHES // 2
    _, slots = learner.learn(learner.init(WEIGHTS), WEIGHTS, STATS, images[late:], labels[late:])
    assert set(slots.tolist()) == {0}
    _, slots = learner.learn(learner.init(WEIGHTS), WEIGHTS, STATS, images, labels)
    assert slots.tolist() == BATCHES * [0] + 2 * BATCHES * [1]


def test_a_repeated_task_is_recognised_and_trained_further(four):
    state, _ = four
    again, slots = learn([2, 0], state=state)
    assert runs(slots) == [2, 0]
    assert len(again.slots) == 4
    changed = [
        bool((a.params["dense0"]["kernel"] != b.params["dense0"]["kernel"]).any())
        for a, b in zip(state.slots, again.slots, strict=True)
    ]
    assert changed == [True, False, True, False]


@pytest.mark.thorough
def test_results_do_not_depend_on_how_the_stream_is_split(four):
    whole, slots = four
    images, labels = stream([0, 1, 2, 3])
    state, pieces = LEARNER.init(WEIGHTS), []
    for start, stop in ((0, 1), (1, 190), (190, 191), (191, 600)):
        state, piece = LEARNER.learn(state, WEIGHTS, STATS, images[start:stop], labels[start:stop])
        pieces.append(piece)
    np.testing.assert_array_equal(np.concatenate(pieces), slots)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(whole))


def test_a_state_resumes_from_its_slots_alone(four):
    state, _ = four
    resumed = LEARNER.resume(WEIGHTS, jax.device_get(state.slots), state.active, state.since_check)
    expected, slots = learn([1, 5], state=state)
    actual, same = learn([1, 5], state=resumed)
    np.testing.assert_array_equal(same, slots)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(actual), jax.device_get(expected))


@pytest.mark.thorough
def test_each_slot_has_separate_statistics_with_fresh_initial_values():
    net = networks.Network(ConvNet(10), DIGITS.image_shape)
    weights, stats = net.init(jax.random.key(0))
    learner = Learner(net, optimizer=optimizers.RMSprop(1e-3), rule=Rule(check_every=10, novelty=1e9))
    images, labels = (leaf[:20] for leaf in stream([0]))
    both, slots = learner.learn(learner.init(weights), weights, stats, images, labels)
    assert slots.tolist() == [0] * 10 + [1] * 10
    assert learner.stats(both)["BatchNorm_0"]["mean"].shape == (2, 3)
    # A learner whose first slot has different statistics must give the second slot the same statistics.
    first = both.slots[0]._replace(stats=jax.tree.map(lambda leaf: leaf + 1, both.slots[0].stats))
    state = learner.resume(weights, [first], 0, 10)
    again, _ = learner.learn(state, weights, stats, images[10:], labels[10:])
    jax.tree.map(np.testing.assert_array_equal, again.slots[1].stats, both.slots[1].stats)


@pytest.mark.parametrize("setting", ["check_every", "fewest", "budget"])
def test_a_rule_with_a_zero_is_rejected(setting):
    with pytest.raises(ValueError, match=f"{setting} 0: must be at least 1"):
        Rule(**{setting: 0})


def test_labels_must_match_images_and_a_new_learner_has_no_masks():
    state = LEARNER.init(WEIGHTS)
    with pytest.raises(ValueError, match=r"labels have shape \(1, 64\); expected one label per image: \(3, 64\)"):
        LEARNER.learn(state, WEIGHTS, STATS, np.zeros((3, 64, 8, 8, 1), np.float32), np.zeros((1, 64), np.int32))
    with pytest.raises(ValueError, match="does not hold 0 tasks"):
        LEARNER.masks(state, WEIGHTS)
    with pytest.raises(ValueError, match="no task has been discovered"):
        LEARNER.stats(state)


def test_masks_match_the_slots(four):
    state, _ = four
    bank = LEARNER.masks(state, WEIGHTS)
    for number, slot in enumerate(state.slots):
        expected = LEARNER.method.finalize(slot.params, WEIGHTS)
        jax.tree.map(np.testing.assert_array_equal, banks.unpack(bank, number), expected)


@pytest.mark.thorough
def test_when_all_slots_are_taken_new_tasks_are_skipped():
    learner = Learner(NET, optimizer=optimizers.RMSprop(1e-3), rule=Rule(check_every=BATCHES, novelty=1.3, budget=2))
    _, slots = learn([0, 1, 2, 0], learner=learner)
    assert runs(slots) == [0, 1, -1, 0]


@pytest.mark.thorough
def test_the_bank_grows_by_doubling_beyond_eight_slots():
    rule = Rule(check_every=BATCHES, novelty=1e9)  # every check finds a new task
    learner = Learner(NET, optimizer=optimizers.RMSprop(1e-3), rule=rule)
    state, slots = learn(range(10), learner=learner)
    assert runs(slots) == list(range(10))
    assert banks.bytes_per_weight(state.bank) == 2
    assert banks.bytes_per_weight(learner.resume(WEIGHTS, state.slots, 9, BATCHES).bank) == 2
    bank = learner.masks(state, WEIGHTS)
    for number in (0, 7, 8, 9):
        expected = learner.method.finalize(state.slots[number].params, WEIGHTS)
        jax.tree.map(np.testing.assert_array_equal, banks.unpack(bank, number), expected)


def test_a_requested_check_resets_the_count_of_batches():
    state, _ = learn([0])
    images, labels = stream([1])
    unchecked, same = LEARNER.learn(state._replace(since_check=10), WEIGHTS, STATS, images[:20], labels[:20])
    assert (same == 0).all() and unchecked.since_check == 30
    checked, new = LEARNER.learn(state._replace(since_check=10), WEIGHTS, STATS, images[:20], labels[:20], check=True)
    assert (new == 1).all() and checked.since_check == 20


def test_a_task_is_new_iff_no_share_of_the_softmax_is_large_enough(four):
    state, _ = four
    images, labels = stream([1])
    bank = LEARNER.masks(state, WEIGHTS)
    fifth = LEARNER.method.finalize(LEARNER.method.init(jax.random.split(training.task_key(1, 4))[0], WEIGHTS), WEIGHTS)
    five = banks.append(bank, 4, banks.pack(jax.tree.map(lambda leaf: leaf[None], fifth)), 1)
    model = model_of(NET, WEIGHTS, five, 5)
    gradient = inference.alpha_gradient(model, images[0], jnp.full(5, 0.2), images_per_pick=BATCH)
    share = float(jax.nn.softmax(-gradient[0]).max())
    for novelty, found in ((5 * share * 0.999, 4), (5 * share * 1.001, 5)):
        learner = Learner(NET, optimizer=LEARNER.optimizer, rule=Rule(novelty=novelty))
        after, _ = learner.learn(state, WEIGHTS, STATS, images[:1], labels[:1], check=True)
        assert len(after.slots) == found
