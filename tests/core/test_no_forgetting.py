"""After a hundred tasks of real MNIST, the first task is unchanged, bit by bit."""

from pathlib import Path

import jax
import numpy as np
import pytest

import supsup_jax as ss
from helpers import adapter
from supsup_jax import data

# The network and settings of experiments/GNu/MNISTPerm/LeNet-250-tasks with a tenth of the steps: forgetting does not
# depend on how well a task was learned. Takes about two minutes on two cores.
EXPERIMENT = adapter.experiment("no-forgetting", features=100, steps=100, learning_rate=1e-4, scenario="GG")


@pytest.fixture
def compiled_well():
    """Compile with all optimizations, as scripts do, since the steps of this test take longer than compiling."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)  # as conftest.py sets it


@pytest.mark.long
@pytest.mark.usefixtures("compiled_well")
def test_a_task_is_bitwise_unchanged_after_a_hundred_tasks(data_folder: Path, tmp_path: Path):
    mnist = data.load_mnist(data_folder)
    first = data.PermutedMNIST.of(mnist).tasks(mnist, EXPERIMENT.seed, [0])
    images = mnist.test.images.reshape(len(mnist.test.labels), -1)[:, np.asarray(first[0])].reshape(-1, 28, 28, 1)

    def after(num_tasks: int):
        experiment = adapter.changed(EXPERIMENT, num_tasks=num_tasks)
        outcome = adapter.run_experiment(experiment, mnist, tmp_path)
        run = ss.restore(tmp_path)
        assert run.num_tasks == num_tasks
        return outcome.record.evaluations[-1].given[0], run.predict(images, task=0), run.mask(0), run.stats_for(0)

    accuracy, predicted, mask, stats = after(1)
    assert accuracy == pytest.approx(np.mean(predicted.labels == mnist.test.labels), abs=1e-6)
    assert accuracy > 0.5
    later_accuracy, later, later_mask, later_stats = after(100)
    assert later_accuracy == accuracy
    for name in ("labels", "logits", "probabilities"):
        np.testing.assert_array_equal(getattr(later, name), getattr(predicted, name))
    jax.tree.map(np.testing.assert_array_equal, (later_mask, later_stats), (mask, stats))
