import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supsup_jax as ss
from helpers import adapter
from helpers.tiers import thorough_but
from helpers.toys import HOPSUPSUP, batch_norm_net, small_dataset
from supsup_jax import UserError, optimizers, training
from supsup_jax.cli import launch
from supsup_jax.data import Dataset, Samples, SplitMNIST, conventions
from supsup_jax.scenarios.discovery import DivergedError, Learner, Rule

SPLIT = adapter.experiment(
    "split", benchmark="SplitMNIST", features=8, width=0.1, num_tasks=4, steps=30, batch_size=8, learning_rate=1e-2
)
HOW = {
    "side by side": SPLIT,
    "in turn": adapter.changed(SPLIT, method="Transfer", er_scale=2.0, scenario="GG"),
    "with the weights": adapter.changed(SPLIT, method="LowerBound", scenario="GG", weights_learning_rate=1e-3),
    "in a memory": adapter.changed(HOPSUPSUP, num_tasks=4, features=8),
    "in a stream": adapter.changed(SPLIT, scenario="NNs", check_every=7, fewest_masks=2),
}
OTHERS = ("in turn", "in a memory", "in a stream")


@pytest.fixture(autouse=True)
def unchecked_images(monkeypatch):
    """Let NaN in images, which is refused before the training, make the loss NaN."""
    monkeypatch.setattr(conventions, "_check_images", lambda images, where: None)


def dataset(spoilt=None) -> Dataset:
    """Return images of 8 classes, for 4 tasks; the first image of class `spoilt` is NaN."""
    plain = small_dataset()
    rng = np.random.default_rng(1)
    splits = []
    for split in (plain.train, plain.test):
        images = split.images.astype(np.float32)
        labels = (split.labels + 4 * rng.integers(0, 2, len(images))).astype(np.int32)
        splits.append(Samples(images, labels))
    if spoilt is not None:
        splits[0].images[np.flatnonzero(splits[0].labels == spoilt)[0]] = np.nan
    return Dataset(*splits, plain.mean, plain.std)


def run(folder, experiment, data, **options):
    folder.mkdir(exist_ok=True)
    return adapter.run_experiment(experiment, data, folder, **options)


def first_step(data, experiment, task):
    """Return the first step of a task whose batch has the NaN image, counted from 1."""
    benchmark, how = SplitMNIST.of(data), experiment.training
    description = jax.tree.map(lambda leaf: leaf[0], benchmark.tasks(data, experiment.seed, [task]))
    _, order_key = training.keys_of(training.task_key(experiment.seed, task))
    rows = training.drawn_batches(benchmark, how.steps, how.batch_size)(order_key, description)
    images, _ = benchmark.samples(data.train, description, rows.reshape(-1), True)
    spoilt = jnp.isnan(images).any((1, 2, 3)).reshape(rows.shape).any(-1)
    return 1 + int(spoilt.argmax())


LONG = pytest.mark.long  # each test compiles different functions


@pytest.mark.parametrize(
    ("how", "at_once"),
    thorough_but(
        [("with the weights", 4)],
        itertools.product(HOW, (4, 1)),
        long=[(how, at_once) for how in HOW for at_once in (4, 1) if how in OTHERS or at_once == 1],
    ),
)
def test_a_diverged_task_ends_the_run_and_earlier_tasks_are_kept(tmp_path, how, at_once):
    experiment, spoilt = HOW[how], dataset(spoilt=5)
    setting = "--weights-learning-rate than 0.001" if how == "with the weights" else "--learning-rate than "
    step = first_step(spoilt, experiment, 2)
    assert step > 1 or how == "in a memory"
    for _ in range(2):  # the second run resumes
        words = rf"^task 2 diverged: at step {step} of \d+ its loss is nan; give a smaller {setting}"
        with pytest.raises(UserError, match=words):
            run(tmp_path / "run", experiment, spoilt, tasks_at_once=at_once)
    kept = ss.restore(tmp_path / "run")
    fewer = run(tmp_path / "fewer", adapter.changed(experiment, num_tasks=2), dataset(), tasks_at_once=at_once)
    for part in ("weights", "bank", "stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(kept.model, part), getattr(fewer.model, part))
    assert [task.accuracy for task in kept.record.tasks] == [task.accuracy for task in fewer.record.tasks]


@pytest.mark.parametrize("how", [pytest.param(how, marks=LONG) for how in HOW])
def test_nan_in_scores_or_weights_is_reported_as_divergence(tmp_path, how):
    """This holds even if the loss is finite."""
    huge = {"learning_rate": 3e38, "weights_learning_rate": 3e38, "steps": 12}
    with pytest.raises(UserError, match=r"^task 0 diverged: at step \d+ of 12 its loss is (nan|inf)"):
        run(tmp_path, adapter.changed(HOW[how], **huge), dataset())
    with pytest.raises(UserError, match=r"has not learned any task|does not contain a run"):
        ss.restore(tmp_path).bank  # noqa: B018


def test_a_diverged_script_exits_with_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    experiment = adapter.experiment("small", "digits", width=0.1, num_tasks=2, steps=20, scenario="GG")
    monkeypatch.setattr(launch, "_prepare_devices", lambda experiment: None)  # JAX is initialised already
    monkeypatch.setattr(sys, "argv", ["script.py", "--learning-rate", "3e38", "--log-dir", str(tmp_path)])
    errors = []
    for more in ([], ["--resume"]):
        monkeypatch.setattr(sys, "argv", sys.argv[:5] + more)
        with pytest.raises(SystemExit) as ended:
            launch.main(experiment, None)
        assert ended.value.code == 2
        errors.append(capsys.readouterr().err)
    assert errors[0] == errors[1]
    assert errors[0].startswith("error: task 0 diverged: at step ") and errors[0].count("\n") == 1


@pytest.mark.thorough
def test_a_run_from_python_does_not_keep_a_diverged_task():
    rates = {"learning_rate": 3e38, "weights_learning_rate": 3e38}
    net = adapter.own_run("LeNet", num_classes=4, image_shape=(4, 4, 1), method="BatchE", width=0.1, steps=20, **rates)
    with pytest.raises(UserError, match=r"^task 0 diverged: .* smaller --weights-learning-rate than 3e"):
        net.learn(small_dataset().train)
    assert net.num_tasks == 0


@pytest.mark.thorough
def test_a_diverging_stream_names_the_batch_and_keeps_its_state():
    net = batch_norm_net()
    weights, stats = net.init(jax.random.key(0))
    learner = Learner(net, optimizer=optimizers.RMSprop(1e-3), rule=Rule(check_every=4, fewest=2))
    images = np.random.default_rng(0).normal(size=(9, 6, 5, 5, 1)).astype(np.float32)
    labels = np.zeros((9, 6), np.int32)
    state, _ = learner.learn(learner.init(weights), weights, stats, images, labels)
    images[6] = np.nan
    with pytest.raises(DivergedError, match="at batch 6 the loss is nan; give a smaller learning rate"):
        learner.learn(state, weights, stats, images, labels)
    learner.learn(state, weights, stats, images[:6], labels[:6])
