import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.training import CONV, learn
from supsup_jax import training
from supsup_jax.system import backend, devices


def test_tasks_are_learned():
    learned = learn([2, 3])
    assert (learned.accuracy[:, -1] > 0.9).all()
    assert (learned.loss[:, -1] < learned.loss[:, 0]).all()
    assert learned.accuracy.shape == (2, len(training.epoch_ends(96, 60, 16)))


@pytest.mark.parametrize(
    ("numbers", "place", "capacity"),
    [
        ((2, 3), 1, None),
        pytest.param((3,), 0, None, marks=pytest.mark.thorough),
        pytest.param((3, 4), 0, 5, marks=pytest.mark.thorough),
    ],
)
def test_a_task_is_the_same_alone_and_in_any_chunk(numbers, place, capacity):
    together = learn(range(5)).adapter
    chunk = learn(numbers, capacity=capacity).adapter
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[3], b[place]), together, chunk)


def test_tasks_and_seeds_differ():
    kept, other = (learn([2, 3], seed=seed).adapter["dense0"]["kernel"] for seed in (1, 2))
    assert (kept[0] != kept[1]).any()
    assert (kept[0] != other[0]).any()


def test_batch_norm_statistics_are_separate_for_each_task():
    learned = learn(range(3), net=CONV)
    means = learned.stats["BatchNorm_0"]["mean"]
    assert means.shape == (3, 3)
    assert (means[0] != means[1]).any()


@pytest.mark.thorough
def test_statistics_of_a_task_do_not_depend_on_the_others():
    means = learn(range(3), net=CONV).stats["BatchNorm_0"]["mean"]
    np.testing.assert_array_equal(learn([1], net=CONV).stats["BatchNorm_0"]["mean"][0], means[1])


def test_an_epoch_draws_every_sample_once_and_batches_run_across_its_end():
    rows = training.draw_batches(jax.random.key(0), places=10, size=10, steps=5, batch_size=4).reshape(-1)
    assert sorted(rows[:10].tolist()) == list(range(10))
    assert sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()


def test_epochs_end_as_in_the_original():
    assert training.epoch_ends(60000, 1000, 128) == [469, 938, 1000]
    assert training.epoch_ends(100, 2, 10) == [2]
    assert training.epoch_ends(100, 20, 10) == [10, 20]


def test_over_tasks_gives_results_in_order_for_any_number_of_tasks():
    run = devices.over_tasks(lambda shared, task: shared + 10 * task)
    assert jax.device_count() == 2
    for count, capacity in ((1, None), (2, None), (3, None), (3, 8), (5, 7), (8, 8)):
        tasks = jnp.arange(count, dtype=jnp.float32)
        np.testing.assert_array_equal(run(jnp.float32(1), tasks, capacity), 1 + 10 * np.arange(count))


def test_an_accelerator_computes_several_tasks_of_a_device_side_by_side(monkeypatch):
    monkeypatch.setattr(backend, "is_accelerator", lambda: True)
    widths = []

    @jax.custom_batching.custom_vmap
    def doubled(task):
        return 2 * task

    @doubled.def_vmap
    def _(width, _, task):
        widths.append(width)
        return 2 * task, True

    run = devices.over_tasks(lambda _, task: doubled(task))
    assert run({}, jnp.arange(2)).tolist() == [0, 2] and not widths  # one task per device
    assert run({}, jnp.arange(6)).tolist() == [0, 2, 4, 6, 8, 10] and set(widths) == {3}


@pytest.mark.thorough
def test_tasks_learn_the_same_side_by_side_as_one_by_one(monkeypatch):
    alone = learn(range(3))
    monkeypatch.setattr(backend, "is_accelerator", lambda: True)
    side_by_side = learn(range(3))
    np.testing.assert_allclose(side_by_side.loss, alone.loss, rtol=1e-3)
    np.testing.assert_allclose(side_by_side.accuracy, alone.accuracy, atol=0.03)


def test_a_device_without_a_task_computes_nothing():
    learned = []

    def learn_one(shared, task):
        jax.debug.callback(lambda task: learned.append(int(task)), task)
        return task

    run = devices.over_tasks(learn_one)
    for count in (1, 3):
        learned.clear()
        run({}, jnp.arange(count), 8)
        jax.effects_barrier()
        assert sorted(learned) == list(range(count))
