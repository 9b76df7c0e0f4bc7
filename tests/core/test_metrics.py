import numpy as np
import pytest

from supsup_jax.metrics import discovery_metrics, metrics, num_compared, usual_masks

ROWS = {1: [0.9], 2: [0.8, 0.6], 4: [0.85, 0.5, 0.7, 0.9]}


def test_metrics_after_the_first_task_are_its_accuracy():
    assert metrics(ROWS, 1, [0.9, 0.7, 0.8, 0.9]) == (0.9, None, None)
    assert metrics(ROWS, 1) == (0.9, None, None)


def test_forgetting_and_backward_transfer_follow_their_definitions():
    """Forgetting counts from the best accuracy of a task, transfer from the first; the last task has neither."""
    result = metrics(ROWS, 4, [0.8, 0.7, 0.8, 0.9])
    assert result.average_accuracy == pytest.approx(np.mean(ROWS[4]))
    assert result.forgetting == pytest.approx(np.mean([0.9 - 0.85, 0.7 - 0.5, 0.8 - 0.7]))
    assert result.backward_transfer == pytest.approx(np.mean([0.85 - 0.8, 0.5 - 0.7, 0.7 - 0.8]))


def test_without_accuracies_from_learning_only_evaluated_tasks_count():
    result = metrics(ROWS, 4)
    assert result.forgetting == pytest.approx(np.mean([0.9 - 0.85, 0.6 - 0.5]))
    assert result.backward_transfer == pytest.approx(np.mean([0.85 - 0.9, 0.5 - 0.6]))


def test_num_compared_counts_the_tasks_that_forgetting_averages():
    """With sparse evaluations, the number differs between given tasks, measured when learned, and inferred tasks."""
    assert num_compared(ROWS, 4, [0.8, 0.7, 0.8, 0.9]) == 3
    assert [num_compared(ROWS, count) for count in ROWS] == [0, 1, 2]
    assert num_compared({10: [0.9] * 10}, 10) == 0
    assert num_compared({10: [0.9] * 10}, 10, [0.9] * 10) == 9


def test_a_gain_is_negative_forgetting():
    assert metrics({1: [0.5], 2: [0.7, 0.9]}, 2).forgetting == pytest.approx(-0.2)


def test_discovery_of_one_mask_for_each_task():
    stream = [[(0, 10)], [(1, 10)], [(2, 10)]]
    assert discovery_metrics(stream) == (3, 1.0, 1.0, 1.0)
    assert usual_masks(stream).tolist() == [0, 1, 2]


def test_discovery_of_shared_masks_and_of_tasks_with_two_masks():
    shared = discovery_metrics([[(0, 10)], [(0, 10)], [(1, 10)]])
    assert (shared.masks, shared.one_mask, shared.completeness) == (2, pytest.approx(1 / 3), pytest.approx(1))
    assert shared.purity == pytest.approx(2 / 3)
    split = discovery_metrics([[(0, 6), (1, 4)], [(2, 10)]])
    assert (split.masks, split.one_mask, split.purity) == (3, 0.5, 1.0)
    # In nats: H(mask | task) = H(0.6, 0.4) / 2, and H(mask) = H(0.3, 0.2, 0.5).
    assert split.completeness == pytest.approx(1 - 0.3365058335 / 1.0296530140)
    assert usual_masks([[(1, 4), (0, 6)], [(2, 10)]]).tolist() == [0, 2]


def test_skipped_batches_count_as_one_more_mask():
    result = discovery_metrics([[(0, 10)], [(-1, 10)], [(-1, 5), (0, 5)]])
    assert (result.masks, result.one_mask) == (1, 0.0)
    assert discovery_metrics([[(0, 10)], [(0, 10)]]).completeness == 1  # since there is only one mask
    assert discovery_metrics([[(0, 5), (1, 5)], [(0, 5), (1, 5)]]).completeness == 0
    assert result.purity == pytest.approx((10 + 10) / 30)
    assert usual_masks([[(0, 10)], [(-1, 10)]]).tolist() == [0, -1]
