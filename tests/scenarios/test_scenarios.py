import shutil
from functools import cache, partial

import jax
import numpy as np
import pytest
from filelock import FileLock

import supsup_jax
from helpers import adapter
from helpers.runs import DATASET, EXPERIMENT, OTHERS, SHORT, dicts_without_saved, measured
from helpers.tiers import thorough_but
from supsup_jax import UserError, masks, training
from supsup_jax.runs import train
from supsup_jax.runs.records import EvaluationResult
from supsup_jax.system import devices


def run(folder, experiment=EXPERIMENT, **options):
    folder.mkdir(exist_ok=True, parents=True)
    return adapter.run_experiment(experiment, DATASET, folder, **options)


class InterruptedForTestError(Exception):
    pass


def interrupt(progress, after):
    if progress.tasks >= after and progress.message.startswith("learning"):
        raise InterruptedForTestError


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "seed=1", tasks_at_once=4)


def test_a_run_evaluates_at_the_given_numbers_of_tasks(uninterrupted):
    assert [result.num_tasks for result in uninterrupted.record.evaluations] == [3, 10, 12]
    assert [task.task for task in uninterrupted.record.tasks] == list(range(12))
    assert np.mean(uninterrupted.record.evaluations[-1].given) > 0.9


def test_a_run_writes_its_files(uninterrupted):
    names = {path.name.split(".")[0] for path in uninterrupted.folder.iterdir()}
    assert {"adapt_results", "confusion", "metrics", "events", "checkpoints"} <= names
    assert len((uninterrupted.folder.parent / "results.csv").read_text().splitlines()) == 13


@pytest.mark.parametrize("after", thorough_but([8], [4, 8]))
def test_a_resumed_run_ends_with_the_same_results(uninterrupted, tmp_path, after):
    folder = tmp_path / "seed=1"
    with pytest.raises(InterruptedForTestError):
        run(folder, tasks_at_once=4, report=partial(interrupt, after=after))
    resumed = run(folder, tasks_at_once=4)
    assert measured(resumed.record) == measured(uninterrupted.record)
    jax.tree.map(np.testing.assert_array_equal, resumed.model.bank, uninterrupted.model.bank)
    for name in ("adapt_results.csv", "confusion.csv"):

        def without_dates(path):
            return [line.partition(",")[2] for line in path.read_text().splitlines()]

        assert without_dates(folder / name) == without_dates(uninterrupted.folder / name)
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 13


@pytest.mark.thorough
def test_results_do_not_depend_on_the_chunks(uninterrupted, tmp_path):
    other = run(tmp_path / "seed=1", tasks_at_once=5)
    assert measured(other.record) == measured(uninterrupted.record)
    jax.tree.map(np.testing.assert_array_equal, other.model.bank, uninterrupted.model.bank)


def test_a_finished_run_is_extended(uninterrupted, tmp_path):
    folder = tmp_path / "seed=1"
    run(folder, adapter.changed(EXPERIMENT, num_tasks=3), tasks_at_once=4)
    extended = run(folder, tasks_at_once=4)
    assert measured(extended.record) == measured(uninterrupted.record)
    jax.tree.map(np.testing.assert_array_equal, extended.model.bank, uninterrupted.model.bank)


def test_a_folder_in_use_is_left_alone(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="is in use by"):
        run(tmp_path)


def test_a_folder_is_free_again_after_an_error(tmp_path):
    folder = tmp_path / "seed=1"
    with pytest.raises(InterruptedForTestError) as error:  # holds a reference to the failed run
        run(folder, adapter.changed(EXPERIMENT, num_tasks=3), report=partial(interrupt, after=0))
    run(folder, adapter.changed(EXPERIMENT, num_tasks=3))
    assert error


def test_a_run_with_other_settings_is_not_resumed(uninterrupted):
    with pytest.raises(UserError, match=r"contains a run with different settings .*steps: 30 before, 31 now"):
        run(uninterrupted.folder, adapter.changed(EXPERIMENT, steps=31))


def test_a_damaged_checkpoint_leaves_all_other_files_unchanged(uninterrupted, tmp_path):
    folder = tmp_path / "seed=1"
    shutil.copytree(uninterrupted.folder, folder)
    damaged = folder / "checkpoints/1/record/metadata"
    damaged.write_bytes(damaged.read_bytes()[:20])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="checkpoints/1 cannot be read"):
        run(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A function that returns the finished run of another method, learned task by task."""

    @cache
    def finished(name):
        return run(tmp_path_factory.mktemp(name) / "seed=1", OTHERS[name], tasks_at_once=1)

    return finished


# The others resume by the same code, and stored runs of most of them are resumed elsewhere.
RESUMED = ["BatchE", "LowerBound", "NNs"]


@pytest.mark.parametrize("name", thorough_but(["LowerBound"], OTHERS, long=OTHERS.keys() - set(RESUMED)))
def test_every_method_resumes_to_the_same_results(others, tmp_path, name):
    expected = others(name)
    folder = tmp_path / "seed=1"

    def interrupt_evaluation(progress):
        due = OTHERS[name].evaluations[0] if OTHERS[name].num_tasks < 4 else 4
        if progress.message.startswith(f"evaluating {due} "):
            raise InterruptedForTestError

    with pytest.raises(InterruptedForTestError):
        run(folder, OTHERS[name], tasks_at_once=3, report=interrupt_evaluation)
    resumed = run(folder, OTHERS[name], tasks_at_once=3)
    assert dicts_without_saved(resumed) == dicts_without_saved(expected)
    jax.tree.map(np.testing.assert_array_equal, resumed.model, expected.model)


@pytest.mark.parametrize("name", thorough_but(["LowerBound"], OTHERS))
def test_every_method_is_restored_and_evaluates_as_before(others, name):
    outcome = others(name)
    restored = supsup_jax.restore(outcome.folder)
    for part in ("weights", "stats", "bank"):
        jax.tree.map(np.testing.assert_array_equal, getattr(restored.model, part), getattr(outcome.model, part))
    assert dicts_without_saved(restored) == dicts_without_saved(outcome)
    last = outcome.record.evaluations[-1]
    assert restored.account() == last.storage
    given = supsup_jax.evaluate(restored, data=DATASET)
    np.testing.assert_array_equal(given.accuracy, last.given)
    assert given.matrix.shape == (len(outcome.record.evaluations) + 1, outcome.experiment.num_tasks)
    np.testing.assert_array_equal(given.matrix[-1], given.matrix[-2])
    if last.inferred is not None:
        inferred = supsup_jax.evaluate(restored, task="inferred", data=DATASET)
        np.testing.assert_array_equal(inferred.accuracy, last.inferred)
        np.testing.assert_array_equal(inferred.picked, last.picked)


@pytest.mark.thorough
def test_psp_is_between_the_upper_and_the_lower_bound(others):
    upper, psp, lower = (others(name).record.evaluations[-1] for name in ("UpperBound", "PSP", "LowerBound"))
    assert np.mean(upper.given) > 0.9
    assert np.mean(upper.given) > np.mean(psp.given) > np.mean(lower.given)
    assert upper.inferred is None


@pytest.mark.thorough
def test_fine_tuning_gives_both_bounds(others):
    record = others("FineTuning").record
    assert np.mean([task.accuracy for task in record.tasks]) > 0.9
    final = record.evaluations[-1].given
    assert final[-1] == record.tasks[-1].accuracy
    assert np.mean(final) < np.mean([task.accuracy for task in record.tasks])


def num_bytes(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.thorough
def test_every_stored_byte_is_counted(uninterrupted, others):
    storage = {name: others(name).record.evaluations[-1].storage for name in OTHERS}
    weights = others("LowerBound").model.weights
    body = num_bytes([weights["dense0"], weights["dense1"]])
    assert storage["LowerBound"] == {"shared weights": num_bytes(weights)}
    assert storage["UpperBound"] == storage["UpperBound that fine-tunes"] == {"networks": 5 * num_bytes(weights)}
    assert storage["PSP"] == {"shared weights": num_bytes(weights), "keys of rotations": 5 * 8}
    assert storage["FineTuning"] == storage["SeparateHeads"]
    assert storage["SeparateHeads"] == {"shared weights": body, "heads": 5 * num_bytes(weights["dense2"])}
    vectors = 5 * 4 * sum(sum(leaf.shape) for leaf in jax.tree.leaves(weights))
    assert storage["BatchE"] == {"shared weights": num_bytes(weights), "vectors s and t": vectors}
    assert storage["BatchE, Rand W"] == {"seed of the random weights": 8, "vectors s and t": vectors}
    first = uninterrupted.record.evaluations[0]
    kept = sum(
        int((np.unpackbits(leaf[..., :1], axis=-1, bitorder="little")[..., :3]).sum())
        for leaf in jax.tree.leaves(uninterrupted.model.bank)
    )
    assert first.storage == {
        "seed of the random weights": 8,
        "masks as bits": num_bytes(weights) // 4,
        "masks as sparse indices of 16 bits": 2 * kept,
    }
    transfer = others("Transfer")
    density = transfer.experiment.densities(DATASET)
    kept = sum(masks.num_kept(leaf.size, density[name]) for name, leaf in flat(transfer.model.weights).items())
    assert storage["Transfer"]["masks as sparse indices of 16 bits"] == 2 * 5 * kept


def flat(weights):
    return {name: layer["kernel"] for name, layer in weights.items()}


@pytest.mark.thorough
def test_batche_trains_the_weights_only_on_the_first_task(others, tmp_path):
    batche = others("BatchE")
    first = run(tmp_path / "seed=1", adapter.changed(OTHERS["BatchE"], num_tasks=1))
    jax.tree.map(np.testing.assert_array_equal, batche.model.weights, first.model.weights)
    fresh, _ = batche.net.init(training.weights_key(1))
    assert abs(fresh["dense0"]["kernel"] - first.model.weights["dense0"]["kernel"]).max() > 0
    assert batche.record.evaluations[-1].given[0] > 0.9
    assert np.mean(batche.record.evaluations[-1].given) > 0.4
    assert batche.record.evaluations[-1].inferred is not None


def test_trained_weights_are_stored_twice_not_once_per_task(others):
    states = others("LowerBound").folder / "state"
    assert len([path for path in states.iterdir() if path.name.isdecimal()]) == 2


@pytest.mark.thorough
def test_storage_of_hopsupsup_does_not_grow_with_tasks(others, tmp_path):
    hop = others("HopSupSup")
    single = run(tmp_path / "seed=1", adapter.changed(OTHERS["HopSupSup"], num_tasks=1))
    (result,) = hop.record.evaluations
    memory = 4 * 2 * (40**2 + 40) + 4
    assert single.record.evaluations[0].storage == result.storage
    assert result.storage == {"seed of the random weights": 8, "Hopfield memory": memory}
    assert num_bytes(single.model.bank) == num_bytes(hop.model.bank) == memory
    assert not list((hop.folder / "checkpoints").glob("*/arrays"))
    assert [len(path["hamming"]) for path in result.recovery] == [len(path["energy"]) + 1 for path in result.recovery]
    assert result.given == [pytest.approx(task.accuracy, abs=0.2) for task in hop.record.tasks]
    assert (hop.folder / "recovery.csv").read_text().count("\n") > 4


@pytest.mark.thorough
def test_a_stream_is_recorded_batch_by_batch(others):
    stream = others("NNs").record.stream
    assert [result.task for result in stream] == list(range(5))
    assert all(sum(batches for _, batches in result.slots) == 30 for result in stream)
    discovery = others("NNs").record.evaluations[-1].discovery
    assert discovery["masks"] == 1 + max(slot for result in stream for slot, _ in result.slots)
    assert (others("NNs").folder / "stream.csv").exists()


@pytest.mark.thorough
def test_a_stream_that_finds_each_task_learns_the_masks_of_given_tasks(tmp_path):
    experiment = adapter.changed(EXPERIMENT, num_tasks=3)
    given = run(tmp_path / "given", experiment)
    discovered = run(
        tmp_path / "discovered",
        adapter.changed(experiment, scenario="NNs", check_every=30, check_epochs=False, novelty=1e9),
    )
    jax.tree.map(np.testing.assert_array_equal, discovered.model.bank, given.model.bank)
    assert discovered.record.evaluations[-1].given == given.record.evaluations[-1].given
    assert discovered.record.evaluations[-1].discovery["one_mask"] == 1


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A stream of five tasks for a learner that may have two masks, learned task by task."""
    return run(tmp_path_factory.mktemp("crowded") / "seed=1", CROWDED, tasks_at_once=1)


CROWDED = adapter.changed(
    SHORT, scenario="NNs", check_every=30, check_epochs=False, fewest_masks=2, most_masks=2, novelty=1e9, eval_at=(4,)
)


@pytest.mark.thorough
def test_skipped_tasks_have_an_accuracy_of_zero(crowded):
    assert [result.slots for result in crowded.record.stream] == [[[0, 30]], [[1, 30]], *[[[-1, 30]]] * 3]
    evaluation = crowded.record.evaluations[-1]
    assert evaluation.discovery["masks"] == 2
    for figure in (evaluation.given, evaluation.picked, evaluation.picked_per_image):
        assert figure[2:] == [0, 0, 0]
    assert min(evaluation.given[:2]) > 0.9
    assert [task.accuracy for task in crowded.record.tasks[2:]] == [0, 0, 0]


@pytest.mark.thorough
def test_a_stream_whose_last_tasks_were_skipped_is_resumed(crowded, tmp_path):
    def interrupt_evaluation(progress):
        if progress.message.startswith("evaluating 4 "):
            raise InterruptedForTestError

    with pytest.raises(InterruptedForTestError):
        run(tmp_path / "seed=1", CROWDED, tasks_at_once=3, report=interrupt_evaluation)
    resumed = run(tmp_path / "seed=1", CROWDED, tasks_at_once=3)
    assert dicts_without_saved(resumed) == dicts_without_saved(crowded)
    jax.tree.map(np.testing.assert_array_equal, resumed.model.bank, crowded.model.bank)


def test_a_run_cannot_be_made_shorter(uninterrupted):
    with pytest.raises(UserError, match="contains 12 tasks; give --num-tasks 12 or more"):
        run(uninterrupted.folder, adapter.changed(EXPERIMENT, num_tasks=3))


@pytest.mark.thorough
def test_an_evaluation_requested_too_late_is_left_out(tmp_path):
    folder = tmp_path / "seed=1"  # later tasks change the weights
    run(folder, adapter.changed(OTHERS["LowerBound"], num_tasks=3, eval_at=()))
    later = run(folder, adapter.changed(OTHERS["LowerBound"], num_tasks=4, eval_at=(2,)))
    assert [result.num_tasks for result in later.record.evaluations] == [3, 4]


@pytest.mark.parametrize("name", thorough_but(["SupSup"], ["SupSup", "NNs", "HopSupSup", "SupSup, every task tried"]))
def test_an_evaluation_that_was_killed_is_resumed(name, uninterrupted, others, tmp_path, monkeypatch):
    experiment, expected = (EXPERIMENT, uninterrupted) if name == "SupSup" else (OTHERS[name], others(name))
    monkeypatch.setattr(devices, "tasks_at_once", lambda *_: 1)
    monkeypatch.setattr(train, "_SAVE_AFTER", 0.0)
    extend, done = EvaluationResult.extend, []

    def extend_or_die(result, *part):
        done.append(len(result.given))
        if done.count(1) == 1 and done[-1] == 1:
            raise InterruptedForTestError
        return extend(result, *part)

    monkeypatch.setattr(EvaluationResult, "extend", extend_or_die)
    with pytest.raises(InterruptedForTestError):
        run(tmp_path / "seed=1", adapter.changed(experiment, eval_at=()), tasks_at_once=4)
    del done[:-1]
    resumed = run(tmp_path / "seed=1", adapter.changed(experiment, eval_at=()), tasks_at_once=4)
    assert done[:2] == [1, 1]
    assert measured(resumed.record)["evaluations"] == measured(expected.record)["evaluations"][-1:]
    assert not [*(tmp_path / "seed=1/evaluation").glob("[0-9]*")]


def test_a_saved_evaluation_must_belong_to_the_same_run(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted.folder, tmp_path / "seed=1")
    longer = adapter.changed(EXPERIMENT, eval_at=(2,))
    other = supsup_jax.restore(uninterrupted.folder)
    other.about["experiment"] |= {"learning_rate": 0.5}
    other.folder = tmp_path / "seed=1"
    with other.locked():
        other.pending.save_evaluation(EvaluationResult.begin(2))
    with pytest.raises(UserError, match=r"different settings \(learning_rate"):
        run(tmp_path / "seed=1", longer)
