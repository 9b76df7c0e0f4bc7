import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supsup_jax as ss
from helpers import adapter
from helpers.runs import SHORT
from helpers.searched import FEW, IMAGES, OBJECTIVES, TASKS, learned, unlearned
from helpers.tiers import thorough_but
from helpers.toys import small_dataset
from supsup_jax import bank as banks
from supsup_jax import evaluation
from supsup_jax.bank import parts
from supsup_jax.inference import dense, shortlist
from supsup_jax.runs.train import run_experiment
from supsup_jax.system import backend


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("batch", [1, 9])
def test_products_with_parts_of_a_bank(batch, accelerator, monkeypatch):
    monkeypatch.setattr(backend, "is_accelerator", lambda: accelerator)
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (13, 500)).astype(np.float32)
    rows, columns = banks.pack(masks), jnp.asarray(rng.normal(size=(batch, 500)), jnp.float32)
    chosen, tasks = rng.random(500) < 0.3, np.array([12, 3, 3])
    sums = parts.project_chosen(rows, jnp.asarray(chosen), columns)
    found = sums.swapaxes(1, 2).reshape(batch, -1)[:, :13]
    np.testing.assert_allclose(found, columns[:, chosen] @ masks.T[chosen], rtol=1e-4, atol=1e-4)
    assert not np.asarray(parts.project_chosen(rows, jnp.zeros(500, bool), columns)).any()
    exact = parts.project_to(rows, jnp.asarray(tasks), columns)
    np.testing.assert_allclose(exact, columns @ masks.T[:, tasks], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("objective", "one_task"),
    thorough_but([("H", True)], [("H", True), ("H", False), ("G", True), ("G", False)], long=[("G", False)]),
)
def test_clear_picks_read_only_a_share_and_are_exact(objective, one_task):
    model = learned(OBJECTIVES[objective])
    search = dataclasses.replace(FEW, objective=OBJECTIVES[objective], one_task=one_task, shortlist=6)
    exact = ss.OneShot(search.objective).scores(model, IMAGES)
    found = shortlist.shortlisted(model, IMAGES, search)
    assert exact.argmin(1).tolist() == [5, 20, 35, 50]
    np.testing.assert_array_equal(search(model, IMAGES), exact.argmin(1))
    np.testing.assert_allclose(found.scores.min(1), exact.min(1), rtol=1e-4)
    assert (found.share < 1).all() and (found.share > 0.2).all()


@pytest.mark.parametrize("one_task", [False, True])
def test_unclear_picks_read_the_whole_bank(one_task):
    model, search = unlearned(), dataclasses.replace(FEW, margin=100.0, one_task=one_task)
    found = shortlist.shortlisted(model, IMAGES, search)
    # Weights whose gradient is 0 for an inactive unit are never read; without them half of the bank is everything.
    assert ((found.share > 1) | (found.share < 0.5)).all() and (found.share > 1).any()
    np.testing.assert_allclose(found.scores, ss.OneShot().scores(model, IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_a_few_unclear_picks_are_read_one_by_one(monkeypatch):
    monkeypatch.setattr(shortlist, "_FEW", 2)
    model = learned()
    images = jnp.concatenate([IMAGES, IMAGES[:1] * 0.01 + 0.5])
    search = dataclasses.replace(FEW, one_task=True, shortlist=7, margin=2.0)
    np.testing.assert_array_equal(search(model, images), ss.OneShot()(model, images))


@pytest.mark.parametrize(
    ("margin", "one_task"), thorough_but([(6.0, True)], [(6.0, True), (6.0, False), (100.0, True), (100.0, False)])
)
def test_many_picks_need_no_arrays_of_gradients(margin, one_task, monkeypatch):
    model = learned()
    search = dataclasses.replace(FEW, margin=margin, one_task=one_task, shortlist=6)
    images = jnp.concatenate([IMAGES, IMAGES * 0.9, IMAGES * 1.1])  # for at most 8, sums are used
    assert dense.are_faster(model, len(images), 1)
    factored = shortlist.shortlisted(model, images, search)
    monkeypatch.setattr(dense, "are_faster", lambda *_: False)
    jax.clear_caches()
    arrays = shortlist.shortlisted(model, images, search)
    np.testing.assert_allclose(factored.scores, arrays.scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(factored.share, arrays.share, atol=0.01)


def test_scores_on_the_list_are_exact_and_the_others_larger():
    model, search = learned(), dataclasses.replace(FEW, shortlist=6)
    scores, exact = search.scores(model, IMAGES), ss.OneShot().scores(model, IMAGES)
    for found, expected in zip(scores, exact, strict=True):
        same = np.isclose(found, expected, rtol=1e-4, atol=1e-6)
        assert same.sum() >= 6
        assert found[~same].min() > found.min()


@pytest.mark.thorough
def test_picks_of_several_images_equal_the_exact_search():
    model = learned()
    images = jnp.repeat(IMAGES, 3, axis=0)
    np.testing.assert_array_equal(FEW(model, images, 3), ss.OneShot()(model, images, 3))


def test_few_tasks_are_searched_exactly():
    model = unlearned()
    search = ss.Shortlist(shortlist=TASKS)
    np.testing.assert_array_equal(search.scores(model, IMAGES), ss.OneShot().scores(model, IMAGES))


@pytest.mark.thorough
def test_images_without_gradient_are_clear():
    model = learned()
    picks = FEW(model, jnp.zeros_like(IMAGES[:1]))
    np.testing.assert_array_equal(picks, ss.OneShot()(model, jnp.zeros_like(IMAGES[:1])))


@pytest.mark.parametrize("one_task", thorough_but([], [False, True], long=[False]))
def test_chunks_of_picks_equal_one_call(one_task, monkeypatch):
    model, search = learned(), dataclasses.replace(FEW, one_task=one_task)
    size = backend.num_bytes(model.weights)
    images = jnp.concatenate([IMAGES, IMAGES[:1]])
    monkeypatch.setattr(backend, "gradient_bytes", lambda: 2 * size)
    np.testing.assert_array_equal(search(model, images), ss.OneShot()(model, images))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shortlist": 0}, "shortlist 0: must be from 1"),
        ({"share": 0.0}, "share 0: must be a positive number"),
        ({"share": 1.5}, "share 1.5: must be at most 1"),
        ({"margin": -1.0}, "margin -1: must be a non-negative number"),
        ({"checked_picks": -1}, "checked_picks -1: must be from 0"),
        ({"objective": ss.maximum}, "objective maximum"),
    ],
)
def test_values_out_of_range_are_refused(fields, message):
    with pytest.raises(ss.UserError, match=message):
        ss.Shortlist(**fields)


def test_only_methods_with_masks_are_served():
    assert FEW.serves(ss.methods.SupSup())
    assert not FEW.serves(ss.methods.BatchE())


def test_runs_record_how_many_picks_differ(tmp_path, monkeypatch):
    changes = {"search": "shortlist", "shortlist": 1, "share": 0.5, "checked_picks": 2, "num_tasks": 3, "eval_at": (3,)}
    experiment = adapter.changed(SHORT, **changes)
    assert experiment.scenario.search == ss.Shortlist(shortlist=1, share=0.5, checked_picks=2)
    run = run_experiment(experiment, small_dataset(), tmp_path)
    last = run.record.evaluations[-1]
    assert last.checked == [1.0] * 3  # 96 test images are one batch
    assert last.differing == [0.0] * 3
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert (line["checked"], line["differing"]) == (3, 0)
    assert ss.restore(tmp_path).record.evaluations[-1].checked == last.checked


def test_differing_picks_are_counted(monkeypatch):
    batches = np.array([[0, 2, 0], [0, 1, 0]])
    measured = evaluation._Measured(
        np.ones((2, 96), bool),
        np.array([96, 40]),
        picks=batches,
        image_picks=np.zeros((2, 1), int),
        exact_picks=np.array([[0, 0], [1, 1]]),
    )
    protocol = evaluation.Protocol(FEW, 40, images_per_task=1)
    summary = evaluation._summary(measured, np.arange(2), 3, protocol)
    assert summary.checked.tolist() == [2, 1]  # the second task has one batch
    assert summary.differing.tolist() == [1, 1]
