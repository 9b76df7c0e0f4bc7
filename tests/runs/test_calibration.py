"""Calibration of runs, and rejection of images of unlearned tasks."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import supsup_jax as ss
from helpers.tiers import thorough_but
from supsup_jax import data
from supsup_jax.inference.confidence import auroc, novelty
from supsup_jax.runs.calibrating import calibrate

RUN = Path(__file__).parents[1] / "stored/format-2-SupSup"
DIGITS = data.load_digits()
LEARNED = 3


def permuted(images, task):
    order = np.random.default_rng(task).permutation(64)
    return images.reshape(-1, 64)[:, order].reshape(-1, 8, 8, 1)


def images_of(tasks, images):
    """Return test images of tasks, and their tasks."""
    return np.concatenate([permuted(images, task) for task in tasks]), np.repeat(tasks, len(images))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Return the folder of a run that learned three orders of the digits' pixels."""
    inputs = data.Inputs.new((8, 8, 1), num_classes=10, mean=DIGITS.mean, std=DIGITS.std)
    training = ss.Training(steps=150, batch_size=32, optimizer=ss.optimizers.RMSprop(1e-3))
    run = ss.Run.new(ss.networks.LeNet(features=50), inputs=inputs, training=training)
    for task in range(LEARNED):
        run.learn(permuted(DIGITS.train.images, task), DIGITS.train.labels)
    folder = tmp_path_factory.mktemp("learned") / "run"
    run.save(folder)
    return folder


@pytest.fixture
def run(learned, tmp_path):
    return ss.restore(shutil.copytree(learned, tmp_path / "run"))


KNOWN, TASKS = images_of(range(LEARNED), DIGITS.test.images[:100])
HELD_OUT, _ = images_of(range(LEARNED), DIGITS.test.images[100:300])
UNKNOWN, _ = images_of(range(10, 14), DIGITS.test.images[100:200])


SEARCHES = [("one_shot", 0.6), ("binary", 0.6), ("exhaustive", 0.25)]


@pytest.mark.parametrize(("search", "share"), thorough_but(SEARCHES[::2], SEARCHES))
def test_images_of_unlearned_tasks_are_rejected(run, search, share):
    calibration = run.calibrate(KNOWN, TASKS, search)
    assert calibration.found > 0.9 and calibration.error < max(0.05, calibration.error_before)
    known, unknown = (run.predict(images, search=search, reject=0.05) for images in (HELD_OUT, UNKNOWN))
    assert (known.tasks == -1).mean() < 0.1
    assert (unknown.tasks == -1).mean() > share
    inferred = [run.infer_task(images, True, search) for images in (HELD_OUT, UNKNOWN)]
    comparable = calibration.comparable
    assert comparable == (search == "exhaustive")
    assert auroc(*(novelty(each.scores, each.tasks, 1, comparable) for each in inferred)) > 0.8
    assert inferred[0].confidence.mean() > 0.9 > inferred[1].confidence.mean()


def test_rejected_images_have_neither_task_nor_label(run):
    run.calibrate(KNOWN, TASKS)
    images = np.concatenate([HELD_OUT[:50], UNKNOWN[:50]])
    plain, predicted = run.predict(images), run.predict(images, reject=0.05)
    rejected = predicted.tasks == -1
    assert rejected[:50].mean() < 0.3 and rejected[50:].mean() > 0.5
    assert (predicted.labels[rejected] == -1).all() and not predicted.probabilities[rejected].any()
    assert not predicted.logits[rejected].any()
    for name in ("labels", "tasks", "logits", "probabilities"):  # batches of other sizes are rounded differently
        np.testing.assert_allclose(getattr(predicted, name)[~rejected], getattr(plain, name)[~rejected], rtol=1e-4)


def test_text_labels_of_rejected_images_are_the_integer_minus_one(tmp_path):
    inputs = data.Inputs.new((8, 8, 1), num_classes=2)
    training = ss.Training(steps=30, batch_size=32, optimizer=ss.optimizers.RMSprop(1e-2))
    run = ss.Run.new(ss.networks.LeNet(features=50), inputs=inputs, training=training)
    binary = np.where(DIGITS.train.labels % 2, "odd", "even")
    for task in range(2):
        run.learn(permuted(DIGITS.train.images, task), binary)
    run.calibrate(*images_of(range(2), DIGITS.test.images[:60]))
    predicted = run.predict(np.concatenate([UNKNOWN, HELD_OUT[:20]]), reject=0.2)
    rejected = predicted.tasks == -1
    assert rejected.any() and set(predicted.labels[rejected]) == {-1}
    assert set(predicted.labels[~rejected]) <= {"odd", "even"}


def test_a_calibration_is_saved_and_holds_until_the_next_task(run, tmp_path):
    calibration = run.calibrate(KNOWN, TASKS)
    again = ss.restore(run.folder)
    assert again.calibrations == [calibration]
    before = ss.restore(run.folder).predict(UNKNOWN, reject=0.05).tasks
    again.save(tmp_path / "copy")
    np.testing.assert_array_equal(ss.restore(tmp_path / "copy").predict(UNKNOWN, reject=0.05).tasks, before)
    again.learn(permuted(DIGITS.train.images, 7), DIGITS.train.labels, steps=5)
    with pytest.raises(ss.UserError, match="for 4 tasks, and the run has one for 3, of an earlier state; call "):
        again.predict(UNKNOWN, reject=0.05)
    uncalibrated = ss.restore(again.folder)
    uncalibrated._calibrations = []
    np.testing.assert_array_equal(
        again.infer_task(UNKNOWN, True).confidence, uncalibrated.infer_task(UNKNOWN, True).confidence
    )


def test_each_search_and_objective_has_its_calibration(run):
    run.calibrate(KNOWN, TASKS)
    with pytest.raises(
        ss.UserError, match="needs a calibration of search exhaustive and objective entropy for 3 tasks; call"
    ):
        run.predict(UNKNOWN, search="exhaustive", reject=0.05)
    run.calibrate(KNOWN, TASKS, "exhaustive")
    replaced = run.calibrate(KNOWN[::2], TASKS[::2])
    assert [each.search["search"] for each in run.calibrations] == ["exhaustive", "one_shot"]
    assert run.calibrations[1] == replaced and len(replaced.novelties) == len(KNOWN) / 2


def test_a_run_without_a_calibration_has_the_confidence_of_the_paper(run):
    inferred = run.infer_task(KNOWN, True)
    shares = np.exp(-inferred.scores) / np.exp(-inferred.scores).sum(1, keepdims=True)
    np.testing.assert_allclose(inferred.confidence, shares.max(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: run.calibrate(KNOWN[:100], 0), "tasks: there are no images of task 1; give some of every"),
        (lambda run: run.calibrate(KNOWN, TASKS + 1), "there is no task 3"),
        (lambda run: run.predict(KNOWN, reject=0.05), r"reject 0\.05: needs a calibration of search one_shot"),
        (lambda run: run.predict(KNOWN, reject=2), "reject 2: must be a fraction above 0 and below 1"),
        (lambda run: run.predict(KNOWN, reject="many"), "reject 'many'"),
        (
            lambda run: run.predict(KNOWN, 1, reject=0.05),
            r"reject 0\.05: requires that tasks are inferred; leave reject or task out",
        ),
    ],
)
def test_a_calibration_that_cannot_be_used_is_an_error_of_one_line(run, call, words):
    with pytest.raises(ss.UserError, match=words):
        call(run)
    assert not (run.folder / "calibration.json").exists()


def test_a_fraction_that_is_too_small_for_the_calibration_is_an_error(run):
    run.calibrate(KNOWN, TASKS)
    with pytest.raises(
        ss.UserError, match=r"reject 0\.001: needs a calibration with at least 999 images; there are 300"
    ):
        run.predict(KNOWN, reject=0.001)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"search": 1}]', "[null", "[" * 10**5, "cold", "empty"])
def test_a_damaged_calibration_is_an_error_only_for_inference(run, content, tmp_path):
    if content in ("cold", "empty"):
        change = {"temperature": 0.0} if content == "cold" else {"novelties": [float("nan")]}
        content = json.dumps([dataclasses.asdict(run.calibrate(KNOWN, TASKS)) | change])
    (run.folder / "calibration.json").write_text(content)
    again = ss.restore(run.folder)
    again.predict(KNOWN[:2], task=0)
    with pytest.raises(ss.UserError, match=r"calibration.json is damaged; delete it, and calibrate the run again"):
        again.infer_task(KNOWN[:2], True)
    with pytest.raises(ss.UserError, match="damaged"):
        again.save(tmp_path / "copy")
    assert not list((tmp_path / "copy").iterdir())


def test_a_run_is_calibrated_on_test_images_of_its_benchmark(tmp_path):
    run = ss.restore(shutil.copytree(RUN, tmp_path / "run"))
    result = calibrate(run, 50)
    assert len(result.calibration.novelties) == 150 and result.curve.count.sum() == 150
    assert 0 <= result.rejected < 0.2 and 0 <= result.curve.error <= 1
    (stored,) = json.loads((tmp_path / "run/calibration.json").read_text())
    assert stored["temperature"] == result.calibration.temperature
    assert ss.restore(tmp_path / "run").predict(DIGITS.test.images[:9], reject=0.05).tasks.shape == (9,)
    assert np.isnan(calibrate(run, 5).rejected)
