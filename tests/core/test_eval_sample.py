"""Evaluations of a random sample of the test picks, with standard errors."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

import supsup_jax as ss
from helpers import adapter
from helpers.runs import SHORT
from helpers.toys import small_dataset
from supsup_jax import evaluation, scenarios
from supsup_jax.cli import console
from supsup_jax.inference.recovery import Recovery
from supsup_jax.metrics import standard_error
from supsup_jax.paper import figures
from supsup_jax.runs.train import run_experiment

BATCH, IMAGES, TASKS = 10, 40, 3
"""The 96 test images of a task are 10 batches; the last one has 6."""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run that evaluated 30 % of its test picks."""
    changes = {"test_batch_size": BATCH, "images_per_task": IMAGES, "num_tasks": TASKS, "eval_at": (2, TASKS)}
    folder = tmp_path_factory.mktemp("runs")
    run_experiment(adapter.changed(SHORT, **changes, eval_sample=0.3), small_dataset(), folder)
    return folder


def evaluated(folder, **changes):
    return ss.evaluate(folder, None, "inferred", small_dataset(), **changes)


def test_a_sample_is_the_mean_over_its_picks(run_folder):
    run, dataset = ss.restore(run_folder), small_dataset()
    found = evaluated(run_folder)
    benchmark = run.experiment.build(dataset).benchmark
    for task, described in enumerate(benchmark.tasks(dataset, run.experiment.seed, range(TASKS))):
        order = jax.random.permutation(
            jax.random.fold_in(evaluation.orders_key(run.experiment.seed), task), len(dataset.test.labels)
        )
        images, labels = benchmark.samples(dataset.test, described, order, train=False)
        answers_right = (
            run.net.apply(run.weights_for(task), run.stats_for(task), images, train=False)[0].argmax(-1) == labels
        )
        picks = np.asarray(ss.infer(run.model, images, run.inference())) == task
        batches = answers_right[:30].reshape(3, BATCH).mean(1) * picks[:30:BATCH]
        alone = np.asarray(answers_right[:12]) * picks[:12]
        np.testing.assert_allclose(found.accuracy[task], batches.mean(), atol=1e-6)
        np.testing.assert_allclose(found.accuracy_per_image[task], alone.mean(), atol=1e-6)
        np.testing.assert_allclose(found.picked[task], picks[:30:BATCH].mean(), atol=1e-6)
        # Equal batches: the standard error of a mean without replacement.
        error = np.sqrt((1 - 3 / 10) * batches.var(ddof=1) / 3)
        np.testing.assert_allclose(found.accuracy_error[task], error, atol=1e-6)
        error = np.sqrt((1 - 12 / IMAGES) * alone.var(ddof=1) / 12)
        np.testing.assert_allclose(found.accuracy_per_image_error[task], error, atol=1e-6)
    assert found.sampled.tolist() == pytest.approx([0.3] * TASKS)


def test_the_whole_sample_is_the_full_evaluation(run_folder):
    found = evaluated(run_folder, eval_sample=1)
    assert found.sample is found.accuracy_error is found.accuracy_per_image_error is None
    nearly = evaluated(run_folder, eval_sample=0.99)  # rounds up to all picks
    np.testing.assert_array_equal(nearly.accuracy, found.accuracy)
    np.testing.assert_array_equal(nearly.confusion, found.confusion)
    assert nearly.accuracy_error.tolist() == [0] * TASKS and nearly.sample == "sample of 100 % of the test picks"


def test_a_sample_does_not_depend_on_the_parts_of_an_evaluation(run_folder):
    run, dataset = ss.restore(run_folder), small_dataset()
    parts = run.experiment.build(dataset)
    described = parts.benchmark.tasks(dataset, run.experiment.seed, range(TASKS))
    test = evaluation.HeldOut(parts.benchmark, dataset.test, described, np.arange(TASKS), run.experiment.seed)
    whole = evaluation.evaluate(run.model, test, parts.protocol)
    later = evaluation.concatenate(evaluation.evaluate_in_parts(run.model, test, parts.protocol, first=1))
    jax.tree.map(lambda part, all_: np.testing.assert_array_equal(part, all_[1:]), later, whole)
    recorded = run.record.evaluations[-1]
    for name in ("inferred", "inferred_error", "inferred_per_image_error", "sampled"):
        np.testing.assert_array_equal(getattr(recorded, name), getattr(whole, name))


def test_records_tables_and_pictures_say_what_was_sampled(run_folder, tmp_path, capsys):
    record = ss.restore(run_folder).record
    last = json.loads((run_folder / "metrics.jsonl").read_text().splitlines()[-1])
    errors = record.evaluations[-1].inferred_error
    assert last["inferred_error"] == pytest.approx(np.sqrt(np.square(errors).sum()) / TASKS)
    assert last["sampled"] == pytest.approx(0.3)
    measured = evaluated(run_folder)
    console.show_evaluation(run_folder, "inferred", measured)
    printed = " ".join(capsys.readouterr().out.split())
    assert "sample of 30 % of the test picks: ± standard error" in printed
    mean, error = 100 * measured.accuracy.mean(), 100 * last["inferred_error"]
    assert f"{mean:.2f} ± {error:.2f}" in printed
    measured.to_csv(tmp_path / "table.csv")
    assert "Accuracy Standard Error" in (tmp_path / "table.csv").read_text()
    axes = Figure().subplots()
    figures._plot_accuracy(axes, record)
    assert [text.get_text() for text in axes.texts] == [
        "task inferred: sample of 30 % of the test picks, ± standard error"
    ]


def test_standard_errors_of_picks_of_different_sizes():
    right = np.array([[1, 1, 0, 0, 1]], bool)
    used = np.ones((1, 5), bool)
    # Picks of 2, 2 and 1 images with 2, 0 and 1 right ones; 3 of 5 images, 3 of 6 picks.
    residuals = np.array([2 - 1.2, 0 - 1.2, 1 - 0.6])
    expected = np.sqrt((1 - 3 / 6) * (residuals**2).sum() / 2 / 3 / (5 / 3) ** 2)
    np.testing.assert_allclose(standard_error(right, used, 2, np.array([6])), [expected])
    assert standard_error(right[:, :2], used[:, :2], 2, np.array([1])).tolist() == [0]


@pytest.mark.parametrize("sample", [0.0, -0.5, 1.5, float("nan")])
def test_samples_out_of_range_are_refused(sample, run_folder):
    with pytest.raises(ss.UserError, match=f"eval_sample {sample:g}: must be above 0 and at most 1"):
        scenarios.GNu(eval_sample=sample)
    with pytest.raises(ss.UserError, match=f"eval_sample {sample:g}: must be above 0 and at most 1"):
        evaluated(run_folder, eval_sample=sample)
    with pytest.raises(ValueError, match="sample"):
        evaluation.Protocol(ss.OneShot(), sample=sample)


def test_samples_require_a_search(run_folder):
    with pytest.raises(ss.UserError, match=r"eval_sample 0.5: applies to tasks that a search infers"):
        scenarios.GNu(Recovery(), eval_sample=0.5)
    with pytest.raises(ss.UserError, match=r"eval_sample 0.5: applies to tasks that a search infers; set task"):
        ss.evaluate(run_folder, data=small_dataset(), eval_sample=0.5)


def test_old_records_have_no_sample(run_folder):
    experiment = ss.restore(run_folder).experiment
    whole = dataclasses.replace(experiment.scenario, eval_sample=1.0)
    assert whole.protocol(4, 96) == evaluation.Protocol(ss.OneShot(), BATCH, images_per_task=IMAGES)
