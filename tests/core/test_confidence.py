"""Confidence of inferred tasks, on made scores with known answers."""

import numpy as np
import pytest

from supsup_jax import UserError
from supsup_jax.inference.confidence import auroc, confidence, fit_temperature, is_rejected, novelty, reliability


def picks_of(probabilities, random):
    """Return one task for each row, drawn from its probabilities."""
    return (random.random(len(probabilities))[:, None] > probabilities.cumsum(1)).sum(1)


def test_confidence_is_the_softmax_of_negative_scores():
    scores = np.array([[0.0, 1.0, 2.0], [3.0, 3.0, 3.0], [0.5, -0.5, 0.0]])
    shares = np.exp(-scores / 2) / np.exp(-scores / 2).sum(1, keepdims=True)
    np.testing.assert_allclose(confidence(scores, temperature=2), shares.max(1))
    np.testing.assert_allclose(confidence(scores, [2, 1, 0], temperature=2), shares[range(3), [2, 1, 0]])
    np.testing.assert_allclose(novelty(scores, temperature=2), np.log(1 / shares.max(1) - 1))


def test_novelty_of_values_is_the_score_of_the_inferred_task():
    scores = [[0.5, 1.0], [7.0, 3.0]]
    assert novelty(scores, comparable=True).tolist() == [0.5, 3]
    assert novelty(scores, [1, 0], comparable=True).tolist() == [1, 7]
    assert novelty([[1.0], [2.0]], comparable=True).tolist() == [1, 2]


def test_novelty_tells_picks_apart_whose_confidence_is_rounded_to_1():
    scores = np.array([[0.0, 50.0], [0.0, 60.0]])
    assert confidence(scores).tolist() == [1, 1]
    np.testing.assert_allclose(novelty(scores), [-50, -60])
    assert confidence([[0.0, 5000.0]], [1]).tolist() == [0]


def test_perfectly_calibrated_picks_have_no_calibration_error():
    confidences = np.repeat([0.25, 0.5, 0.75, 1.0], 400)
    right = np.concatenate([np.arange(400) < 400 * share for share in (0.25, 0.5, 0.75, 1.0)])
    curve = reliability(confidences, right)
    assert curve.error == pytest.approx(0, abs=1e-12)
    assert curve.count.sum() == 1600 and (curve.count > 0).sum() == 4
    filled = curve.count > 0
    np.testing.assert_allclose(curve.accuracy[filled], curve.confidence[filled])


def test_the_calibration_error_is_the_mean_gap_of_the_bins():
    curve = reliability([0.9, 0.9, 0.9, 0.9, 0.1], [True, True, False, False, False])
    assert curve.error == pytest.approx((4 * 0.4 + 0.1) / 5)
    assert reliability([1.0, 1.0], [True, False]).error == 0.5
    assert reliability([1.0, 0.0], [True, False], bins=2).count.tolist() == [1, 1]


@pytest.mark.parametrize("temperature", [1e-7, 0.3, 20.0])
def test_the_temperature_of_drawn_tasks_is_found(temperature):
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, (20_000, 5))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    tasks, scores = picks_of(shares, random), -logits * temperature
    assert fit_temperature(scores, tasks) == pytest.approx(temperature, rel=0.05)
    assert reliability(confidence(scores, temperature=temperature), scores.argmin(1) == tasks).error < 0.02


def test_a_temperature_is_finite_if_all_picks_are_right_or_wrong():
    scores = np.array([[0.0, 1.0], [1.0, 0.0]] * 10)
    right = fit_temperature(scores, [0, 1] * 10)
    wrong = fit_temperature(scores, [1, 0] * 10)
    assert 0 < right < 1 < wrong < np.inf
    assert confidence(scores, temperature=right).min() == pytest.approx(1 - 1 / 22, abs=1e-4)
    assert confidence(scores, temperature=wrong).max() == pytest.approx(0.5, abs=1e-4)
    assert fit_temperature(np.zeros((4, 3)), [0, 1, 2, 0]) == 1


def test_auroc_has_its_closed_forms():
    random = np.random.default_rng(0)
    same, also_same = random.normal(size=(2, 20_000))
    assert auroc(same, also_same) == pytest.approx(0.5, abs=0.01)
    assert auroc(same, same) == 0.5
    assert auroc(same, also_same + 1) == pytest.approx(0.76025, abs=0.01)  # the normal distribution at 1 / sqrt(2)
    assert auroc([0, 1], [2, 3]) == 1 and auroc([2, 3], [0, 1]) == 0
    assert auroc([0, 1], [1]) == 0.75


def test_known_picks_are_rejected_at_most_as_often_as_asked():
    random = np.random.default_rng(0)
    reference, known = random.exponential(size=999), random.exponential(size=100_000)
    assert is_rejected(known, reference, 0.05).mean() == pytest.approx(0.05, abs=0.02)
    assert is_rejected([1e9, -1e9], reference, 0.001).tolist() == [True, False]
    # Of 19 known values, a value beyond all of them is the largest of 20.
    assert is_rejected([19, 18, 0], np.arange(19), 0.05).tolist() == [True, False, False]
    assert is_rejected([18, 17, 0], np.arange(19), 0.1).tolist() == [True, False, False]


def test_values_equal_to_all_known_ones_are_not_rejected():
    assert not is_rejected(np.zeros(5), np.zeros(100), 0.05).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: confidence([1.0, 2.0]), "scores have shape"),
        (lambda: confidence([[1.0, np.nan]]), "finite"),
        (lambda: confidence([[1.0, 2.0]], temperature=0.0), "temperature 0: must be a positive number"),
        (lambda: confidence([[1.0, 2.0]], [2]), "there are tasks 0 to 1"),
        (lambda: confidence([[1.0, 2.0]], [0.0]), "give an integer for each pick"),
        (lambda: fit_temperature([[1.0]], [0]), "at least 2"),
        (lambda: reliability([0.5], [True, False]), "give one of each for each pick"),
        (lambda: reliability([1.5], [True]), r"give values in \[0, 1\]"),
        (lambda: auroc([], [1.0]), "known has shape"),
        (lambda: is_rejected([1.0], np.arange(18), 0.05), "reject 0.05: needs a calibration with at least 19 images"),
        (lambda: is_rejected([1.0], np.arange(18), 1.0), "reject 1: must be a fraction above 0 and below 1"),
    ],
)
def test_a_wrong_argument_is_an_error_of_one_line(call, words):
    with pytest.raises(UserError, match=words):
        call()
