import csv
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from filelock import FileLock

import supsup_jax as ss
from helpers import adapter
from helpers.tiers import thorough_but
from helpers.toys import HOPSUPSUP, ConvNet, small_dataset
from supsup_jax import UserError, evaluation, inference, training
from supsup_jax.data import Inputs
from supsup_jax.networks import Network, kaiming_normal
from supsup_jax.runs.prediction import predicted

DATASET = small_dataset()
NAMES = np.array(["nought", "one", "two", "three"])
SETTINGS = {"features": 6, "width": 0.1, "steps": 60, "batch_size": 16, "learning_rate": 1e-2}
INPUTS = {"num_classes": 4, "image_shape": (4, 4, 1), "mean": DATASET.mean, "std": DATASET.std}


def moved(number, split=DATASET.test):
    """Return images and labels of a task; its images are rotated by `number` quarter turns."""
    return np.rot90(split.images, number, axes=(1, 2)).copy(), split.labels


def learned_run(**settings):
    """Return a run that has learned two user-supplied tasks, with labels of different types."""
    run = adapter.own_run("LeNet", **INPUTS, **SETTINGS | settings)
    images, labels = moved(0, DATASET.train)
    assert run.learn((images, NAMES[labels])) == 0
    images, labels = moved(2, DATASET.train)
    assert run.learn((images / 255, 10 * labels)) == 1
    return run


@pytest.fixture(scope="module")
def trained():
    return learned_run()


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "run"
    trained.save(folder)
    return folder


def test_a_user_supplied_task_is_predicted_with_its_labels(trained):
    images, labels = moved(0)
    predicted = trained.predict(images, task=0)
    assert (predicted.labels == NAMES[labels]).mean() > 0.8
    assert predicted.probabilities.shape == (len(images), 4)
    np.testing.assert_allclose(predicted.probabilities.sum(-1), 1, rtol=1e-5)
    assert predicted.logits.shape == (len(images), 6)
    images, labels = moved(2)
    assert (trained.predict(images, task=1).labels == 10 * labels).mean() > 0.8


def test_images_of_several_tasks_are_predicted_with_their_own_tasks(trained):
    images = np.concatenate([moved(0)[0][:5], moved(2)[0][:5]])
    tasks = np.repeat([0, 1], 5)
    together = trained.predict(images, task=tasks)
    for task in (0, 1):
        alone = trained.predict(images[tasks == task], task=task)
        np.testing.assert_allclose(together.logits[tasks == task], alone.logits, rtol=1e-5, atol=1e-5)
    assert together.labels.dtype == object
    assert together.labels[0] in NAMES and together.labels[-1] in (0, 10, 20, 30)
    np.testing.assert_array_equal(together.tasks, tasks)


@pytest.mark.parametrize("count", thorough_but([3], [1, 3, 300]))
def test_tasks_are_inferred_image_by_image_for_any_number_of_images(trained, count):
    images = np.resize(moved(0)[0], (count, 4, 4, 1))
    inferred = trained.infer_task(images, return_scores=True)
    assert inferred.scores.shape == (count, 2)
    np.testing.assert_array_equal(inferred.tasks, inferred.scores.argmin(-1))
    np.testing.assert_allclose(inferred.confidence, jax.nn.softmax(-inferred.scores, axis=-1).max(-1), rtol=1e-5)
    np.testing.assert_array_equal(trained.infer_task(images), inferred.tasks)
    np.testing.assert_array_equal(trained.predict(images).tasks, inferred.tasks)
    expected = inference.alpha_gradient(trained.model, trained.inputs.normalise(jnp.asarray(images)), jnp.full(2, 0.5))
    # If a unit is 0 up to rounding, its gradient may or may not be 0.
    assert np.isclose(inferred.scores, expected, rtol=1e-4, atol=1e-5).mean() > 0.97


@pytest.mark.parametrize(
    ("search", "objective"),
    thorough_but(
        [("one_shot", "superfluous"), ("binary", "entropy"), ("exhaustive", "entropy")],
        itertools.product(["one_shot", "binary", "exhaustive"], ["entropy", "superfluous"]),
    ),
)
def test_search_and_objective_can_be_chosen(trained, search, objective):
    images = trained.inputs.images(moved(0)[0][:20])
    objectives = {"entropy": inference.entropy, "superfluous": inference.superfluous(4)}
    searches = {"one_shot": inference.OneShot, "binary": inference.Binary, "exhaustive": inference.Exhaustive}
    expected = searches[search](objectives[objective])(trained.model, trained.inputs.normalise(jnp.asarray(images)))
    np.testing.assert_array_equal(trained.infer_task(images, search=search, objective=objective), expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"search": "exhaustive"}, inference.Exhaustive()),
        ({"search": inference.Binary(), "objective": "superfluous"}, inference.Binary(inference.superfluous(4))),
        ({"images_per_pick": 8}, inference.OneShot()),
    ],
)
def test_evaluations_infer_tasks_by_another_search(trained, options, expected, monkeypatch):
    protocols, measure = [], evaluation.evaluate
    monkeypatch.setattr(
        evaluation, "evaluate", lambda *given, **named: protocols.append(given[2]) or measure(*given, **named)
    )
    images, labels = moved(0)
    measured = ss.evaluate(trained, 0, "inferred", [(images, NAMES[labels])], **options)
    (protocol,) = protocols
    assert protocol.infer == expected and protocol.images_per_pick == options.get("images_per_pick", 1)
    assert measured.confusion.sum() == 1  # one batch


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("given", {"search": "binary"}, "search 'binary': applies to tasks that a search infers; set task to inferred"),
        ("inferred", {"search": "guess"}, "search guess is unknown"),
        ("inferred", {"images_per_pick": 0}, "images_per_pick 0: must be from 1 to 128"),
        ("inferred", {"images_per_pick": 129}, "images_per_pick 129: must be from 1 to 128"),
    ],
)
def test_invalid_inference_of_an_evaluation_is_refused(trained, task, options, words):
    images, labels = moved(0)
    with pytest.raises(UserError) as error:
        ss.evaluate(trained, 0, task, [(images, NAMES[labels])], **options)
    assert words in str(error.value)


def test_mask_and_effective_weights_of_a_task_match_the_method(trained):
    mask, weights = trained.mask(1), trained.weights_for(1)
    assert {0, 1} == set(np.unique(mask["dense0"]["kernel"]).tolist())
    jax.tree.map(lambda w, m, e: np.testing.assert_array_equal(w * m, e), trained.weights, mask, weights)
    fresh, _ = trained.net.init(training.weights_key(trained.experiment.seed))
    jax.tree.map(np.testing.assert_array_equal, fresh, trained.weights)


@pytest.mark.thorough
def test_a_saved_run_predicts_the_same_with_other_devices(trained, saved, tmp_path):
    np.save(tmp_path / "images.npy", moved(0)[0])
    program = (
        "import jax, numpy as np, supsup_jax as ss\n"
        "jax.config.update('jax_num_cpu_devices', 4)\n"
        f"predicted = ss.restore({str(saved)!r}).predict(np.load('images.npy'))\n"
        "assert jax.device_count() == 4\n"
        "np.savez('predicted.npz', tasks=predicted.tasks, logits=predicted.logits, labels=predicted.labels.astype(str))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    expected = trained.predict(moved(0)[0])
    with np.load(tmp_path / "predicted.npz") as found:
        np.testing.assert_array_equal(found["tasks"], expected.tasks)
        np.testing.assert_allclose(found["logits"], expected.logits, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found["labels"], expected.labels.astype(str))


def test_a_restored_run_learns_a_task_and_keeps_the_earlier_ones(saved, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    run = ss.restore(folder)
    before = run.predict(moved(0)[0], task=0).logits
    test = moved(1)
    assert run.learn(moved(1, DATASET.train), test=test) == 2
    assert run.record.tasks[-1].accuracy == pytest.approx((run.predict(test[0], task=2).labels == test[1]).mean())
    np.testing.assert_array_equal(run.predict(moved(0)[0], task=0).logits, before)
    again = ss.restore(folder)
    assert again.num_tasks == 3
    jax.tree.map(np.testing.assert_array_equal, again.bank, run.bank)
    assert ss.restore(folder, step=0).num_tasks == 2


def test_saving_in_between_does_not_change_later_tasks(trained, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    restored, at_once = ss.restore(tmp_path / "run"), learned_run()
    for run in (restored, at_once):
        run.learn(moved(1, DATASET.train))
    jax.tree.map(np.testing.assert_array_equal, restored.bank, at_once.bank)


OTHER_METHODS = ["BatchE", "PSP", "Transfer", "SeparateHeads", "UpperBound"]


@pytest.mark.parametrize("method", thorough_but([], OTHER_METHODS, long=OTHER_METHODS[1:3]))
def test_other_methods_learn_user_supplied_tasks(method, tmp_path):
    settings = {"method": method, "optimizer": "Adam", "weights_learning_rate": 1e-2}
    run = learned_run(**settings | ({"er_scale": 2.0, "optimizer": "RMSprop"} if method == "Transfer" else {}))
    run.save(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    restored = ss.restore(tmp_path / "copy")
    for again in (run, restored):
        again.learn(moved(1, DATASET.train), steps=80)
    images, labels = moved(1)
    np.testing.assert_array_equal(run.predict(images, task=2).logits, restored.predict(images, task=2).logits)
    assert (run.predict(images, task=2).labels == labels).mean() > 0.6
    if method != "PSP":
        assert (run.predict(*moved(0)[:1], task=0).labels == NAMES[moved(0)[1]]).mean() > 0.7
    assert run.infer_task(images).shape == (len(images),)


def test_any_linen_module_learns_and_is_passed_to_restore(tmp_path):
    net = Network(ConvNet(4), (4, 4, 1))
    run = adapter.own_run(
        net, num_classes=4, mean=DATASET.mean, std=DATASET.std, steps=60, learning_rate=1e-2, batch_size=16
    )
    run.learn(moved(0, DATASET.train))
    run.learn(moved(2, DATASET.train))
    images, labels = moved(2)
    assert (run.predict(images, task=1).labels == labels).mean() > 0.7
    run.save(tmp_path / "run")
    restored = ss.restore(tmp_path / "run", network=net)
    np.testing.assert_array_equal(restored.predict(images).logits, run.predict(images).logits)
    with pytest.raises(UserError, match="pass it as network="):
        ss.restore(tmp_path / "run")
    with pytest.raises(UserError, match="learned with initializer signed_constant, not kaiming_normal"):
        ss.restore(tmp_path / "run", network=Network(ConvNet(4), (4, 4, 1), kaiming_normal))


@pytest.fixture(scope="module")
def hop(tmp_path_factory):
    """The folder of a run of HopSupSup."""
    experiment = adapter.changed(HOPSUPSUP, steps=30, through_memory=True, attempts=2)
    folder = tmp_path_factory.mktemp("hop")
    adapter.run_experiment(experiment, DATASET, folder)
    return folder


def test_hopsupsup_recovers_a_mask_from_images_of_one_task(hop, tmp_path):
    run = ss.restore(hop)
    rows = np.flatnonzero(DATASET.test.labels < 2)
    predicted = run.predict(DATASET.test.images[rows])
    assert (predicted.labels == DATASET.test.labels[rows]).mean() > 0.7
    assert set(predicted.tasks.tolist()) == {-1}
    for wrong in (
        lambda: run.predict(DATASET.test.images, task=0),
        lambda: run.infer_task(DATASET.test.images),
        lambda: run.mask(0),
        lambda: run.weights_for(0),
        lambda: run.export(tmp_path / "run.bin"),
        lambda: ss.evaluate(run, tasks=[1, 0], data=DATASET),
    ):
        with pytest.raises(UserError):
            wrong()


def test_labels_without_a_known_task_are_shared_by_all_tasks():
    logits = np.eye(3, dtype=np.float32)
    unknown = np.full(3, -1)
    assert predicted(logits, unknown, [["a", "b", "c"]] * 2, 3).labels.tolist() == ["a", "b", "c"]
    assert predicted(logits, unknown, [["a", "b", "c"], ["d", "e"]], 3).labels.tolist() == [0, 1, 2]


@pytest.mark.thorough
def test_networks_that_use_the_batch_cannot_infer_or_export(tmp_path):
    run = adapter.own_run("BNNet", **INPUTS, method="UpperBound", width=0.01, features=6, steps=5, batch_size=16)
    run.learn(moved(0, DATASET.train))
    assert run.predict(moved(0)[0], task=0).logits.shape == (96, 6)
    for wrong in (lambda: run.infer_task(IMAGES), lambda: run.export(tmp_path / "x", 0), lambda: run.predict(IMAGES)):
        with pytest.raises(UserError):
            wrong()


def test_a_task_with_few_classes_gets_only_its_labels(tmp_path):
    run = learned_run()
    images, labels = moved(1, DATASET.train)
    run.learn((images[labels < 2], labels[labels < 2]), steps=1)
    others = moved(1)[0]
    found = run.predict(others, task=2)
    assert set(found.labels.tolist()) <= {0, 1}
    assert set(found.logits[:, :4].argmax(-1).tolist()) - {0, 1}, "no other output is ever the largest"
    np.testing.assert_array_equal(found.probabilities[:, 2:], 0)
    np.testing.assert_array_equal(found.probabilities.argmax(-1), found.labels)
    for task in (2, None):  # an exported run, too
        run.export(tmp_path / "run.bin", task)
        program = jax.export.deserialize(bytearray((tmp_path / "run.bin").read_bytes()))
        classes, _, _ = program.call(others)
        np.testing.assert_array_equal(classes, run.predict(others, task=task).probabilities.argmax(-1))


def test_learning_reads_only_the_last_checkpoint(saved, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    run = ss.restore(folder)
    run.learn(PAIR, steps=2)
    damaged = folder / "checkpoints/0/record/metadata"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"")
    run.learn(PAIR, steps=2)
    damaged.write_bytes(whole)
    assert ss.restore(folder).num_tasks == 4


@pytest.mark.thorough
@pytest.mark.parametrize("task", [None, 1])
def test_an_exported_run_needs_only_jax(trained, tmp_path, task):
    images = np.concatenate([moved(0)[0][:3], moved(2)[0][:4]])
    trained.export(tmp_path / "run.bin", task)
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, numpy as np, jax.export\n"
        "program = jax.export.deserialize(bytearray(open('run.bin', 'rb').read()))\n"
        "classes, tasks, logits = program.call(np.load('images.npy'))\n"
        "assert 'supsup_jax' not in sys.modules and 'flax' not in sys.modules\n"
        "np.savez('out.npz', classes=classes, tasks=tasks, logits=logits)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    expected = trained.predict(images, task=task)
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(out["tasks"], expected.tasks)
        np.testing.assert_allclose(out["logits"], expected.logits, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(out["classes"], expected.probabilities.argmax(-1))


RUNS = Path(__file__).parents[1] / "stored"


@pytest.mark.thorough  # tests/cli/test_commands.py evaluates one of them
@pytest.mark.parametrize("method", ["SupSup", "BatchE"])
def test_a_run_of_format_2_has_its_recorded_accuracies(method):
    folder = RUNS / f"format-2-{method}"
    run = ss.restore(folder)
    with (folder / "accuracy_matrix.csv").open() as file:
        _, *rows = csv.reader(file)
    for row in rows:
        measured = ss.evaluate(run, task=row[1])
        np.testing.assert_allclose(measured.accuracy, [float(value) for value in row[2:]], atol=5e-3)


IMAGES = np.zeros((2, 4, 4, 1), np.uint8)
PAIR = IMAGES, np.array([0, 1])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda run: run.predict(np.zeros((2, 4, 4, 3), np.uint8)), r"shape \(2, 4, 4, 3\); .*\(images, 4, 4, 1\)"),
        (lambda run: run.predict(np.zeros((2, 5, 4), np.uint8)), "shape"),
        (lambda run: run.predict(IMAGES[:0]), "there are no images"),
        (lambda run: run.predict(IMAGES.astype(np.int64)), "uint8 from 0 to 255, or floats"),
        (lambda run: run.predict(IMAGES + 2.0), "values from 2 to 2; give floats from 0 to 1"),
        (lambda run: run.predict(np.full(IMAGES.shape, np.nan)), "NaN or infinity"),
        (lambda run: run.predict(IMAGES, task=2), "there is no task 2; there are tasks 0 to 1"),
        (lambda run: run.predict(IMAGES, task=np.array([0, -1])), "there is no task -1"),
        (lambda run: run.predict(IMAGES, task=np.array([0, 1, 1])), "give an integer, or one for each image"),
        (lambda run: run.predict(IMAGES, task=np.array([0.5, 0])), "one for each image"),
        (lambda run: run.predict(IMAGES, search=ss.Binary), r"search Binary: is a class; .*Binary\(\.\.\.\)"),
        (lambda run: run.infer_task(IMAGES, search=3), "search 3: has type int"),
        (lambda run: run.save(__file__), r"test_run.py cannot be created \(File exists\); give another folder"),
        (lambda run: run.save(Path(__file__) / "x"), "cannot be created .*; give another folder"),
        (
            lambda run: run.predict(IMAGES, search="exhaust"),
            "search exhaust is unknown; give one_shot or binary or exhaustive",
        ),
        (lambda run: run.infer_task(IMAGES, objective="exhaustive"), "objective exhaustive is unknown"),
        (
            lambda run: run.infer_task(IMAGES, objective="maximum"),
            "maximum requires the search exhaustive; give entropy or",
        ),
        (lambda run: run.mask(2), "there is no task 2"),
        (lambda run: run.stats_for(2), "there is no task 2"),
        (lambda run: run.predict([[1], [1, 2]]), "have different shapes"),
        (lambda run: run.learn((IMAGES, [1, "a"])), "numbers and texts"),
        (lambda run: run.learn((IMAGES, [[1], [1, 2]])), "have different shapes"),
        (
            lambda run: adapter.own_run("LeNet", num_classes=3, image_shape=(4, 4, 1), scenario="NNs"),
            "learns from a stream",
        ),
        (lambda run: run.learn((IMAGES, np.array([0]))), "a number or a text for each of 2 images"),
        (lambda run: run.learn((IMAGES, np.array([[0], [1]]))), "a number or a text for each"),
        (lambda run: run.learn((np.resize(IMAGES, (5, 4, 4, 1)), np.arange(5))), "tells 4 classes apart"),
        (lambda run: run.learn(PAIR, test=(IMAGES, np.array([0, 7]))), "the label 7, which no training image has"),
        (lambda run: run.learn(PAIR, steps=0), "steps 0: must be from 1"),
        (
            lambda run: ss.evaluate(run),
            r"no tasks to evaluate with its data set; give data=\[\(images.* to ss.evaluate in Python",
        ),
        (lambda run: ss.evaluate(run, data=[PAIR]), "data has 1 pairs for 2 tasks"),
        (lambda run: ss.evaluate(run, tasks=[5], data=[PAIR]), "task 5 cannot be evaluated"),
        (lambda run: ss.evaluate(run, task="guessed"), "give 'given' or 'inferred'"),
        (
            lambda run: adapter.own_run("LeNet", num_classes=7, image_shape=(4, 4, 1), features=6),
            "6 outputs for 7 classes",
        ),
        (
            lambda run: adapter.own_run("Lenet", num_classes=3, image_shape=(4, 4, 1)),
            "no network Lenet; did you mean LeNet",
        ),
        (lambda run: adapter.own_run("LeNet", num_classes=3, image_shape=(4, 4)), "height, width, channels"),
        (
            lambda run: adapter.own_run(
                "LeNet", num_classes=6, image_shape=(4, 4, 1), features=6, objective="superfluous"
            ),
            "more outputs than classes",
        ),
        (
            lambda run: adapter.own_run(Network(ConvNet(4), (4, 4, 1)), num_classes=4, method="SeparateHeads"),
            "SeparateHeads needs to know the last layer",
        ),
        (lambda run: adapter.own_run("LeNet", num_classes=3, image_shape=(4, 4, 1), stpes=3), "did you mean steps"),
        (
            lambda run: adapter.own_run("LeNet", num_classes=3, image_shape=(4, 4, 1), mean=(0.1, 0.2)),
            "give one number, or one for each of 1 channels",
        ),
        (lambda run: adapter.own_run("LeNet", num_classes=3, image_shape=(4, 4, 1)).mask(0), "not learned any task"),
        (lambda run: adapter.own_run("LeNet", num_classes=3, image_shape=(4, 4, 1)).save("x"), "no tasks to save"),
        (lambda run: ss.restore("nowhere"), "nowhere does not contain a run"),
    ],
)
def test_invalid_arguments_raise_a_one_line_error_without_effects(trained, wrong, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        wrong(trained)
    assert "\n" not in str(error.value)
    assert trained.num_tasks == 2
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_in_use_or_has_changed_is_left_alone(saved, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    run, other = ss.restore(folder), ss.restore(folder)
    with FileLock(folder / ".lock"), pytest.raises(UserError, match="is in use by"):
        run.learn(PAIR, steps=2)
    run.learn(PAIR, steps=2)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    for behind in (other, ss.restore(folder, step=0)):
        with pytest.raises(UserError, match="has changed since this run was read"):
            behind.learn(PAIR, steps=2)
    with pytest.raises(UserError, match="already contains a run"):
        learned_run().save(folder)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert other.num_tasks == 2
    with pytest.raises(UserError, match="already contains a run"):
        run.save(folder)


@pytest.mark.thorough
def test_a_script_does_not_resume_tasks_learned_from_python(tmp_path):
    experiment = adapter.experiment("small", features=8, width=0.1, num_tasks=1, steps=5, batch_size=16)
    adapter.run_experiment(experiment, DATASET, tmp_path)
    run = ss.restore(tmp_path)
    run.learn(moved(1, DATASET.train), steps=5)
    assert ss.evaluate(run, data=DATASET).tasks.tolist() == [0]
    assert ss.evaluate(run, data=[moved(1)]).tasks.tolist() == [1]
    longer = adapter.experiment("small", features=8, width=0.1, num_tasks=3, steps=5, batch_size=16)
    with pytest.raises(UserError, match="learned from Python"):
        adapter.run_experiment(longer, DATASET, tmp_path)


@pytest.mark.thorough
def test_evaluate_agrees_with_predict_for_user_supplied_tasks(trained, tmp_path):
    tests = [(moved(0)[0][:50], NAMES[moved(0)[1][:50]]), (moved(2)[0], 10 * moved(2)[1])]
    given = ss.evaluate(trained, data=tests)
    for task, (images, labels) in enumerate(tests):
        logits = trained.predict(images, task=task).logits
        right = logits.argmax(-1) == np.unique(labels, return_inverse=True)[1]
        assert given.accuracy[task] == pytest.approx(right.mean())
    inferred = ss.evaluate(trained, task="inferred", data=tests)
    assert inferred.confusion.shape == (2, 2)
    assert (inferred.accuracy <= given.accuracy + 1e-9).all()
    inferred.to_csv(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["Task", "Accuracy", "Accuracy Per Image", "Task Inferred Right"]
    assert [float(row[1]) for row in rows] == pytest.approx(inferred.accuracy, abs=1e-4)


def test_images_without_the_channel_axis_are_accepted():
    inputs = Inputs((4, 4, 1), (0.0,), (1.0,), 4)
    np.testing.assert_array_equal(inputs.images(IMAGES[..., 0]), IMAGES)
    np.testing.assert_array_equal(inputs.images(np.ones((1, 4, 4))), np.full((1, 4, 4, 1), 255, np.float32))
