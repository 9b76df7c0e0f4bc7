import json
import shutil

import jax
import numpy as np
import pytest

import supsup_jax as ss
from helpers import adapter
from helpers.disk import rows_of
from helpers.runs import EXPERIMENT, OTHERS
from helpers.tiers import thorough_but
from helpers.toys import random_masks, small_dataset
from supsup_jax import bank as banks
from supsup_jax.bank.files import BankFiles
from supsup_jax.bank.segments import BankFileError
from supsup_jax.runs import bank_export
from supsup_jax.runs.chunks import Chunk
from supsup_jax.runs.opening import export_bank
from supsup_jax.runs.train import run_experiment
from supsup_jax.system.sizes import parse_bytes

DATASET = small_dataset()
IMAGES = DATASET.test.images[:6]
SEARCH = ss.Shortlist(shortlist=3, share=1 / 4, margin=1.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "run"
    folder.mkdir()
    run_experiment(adapter.changed(EXPERIMENT, num_tasks=9, steps=10, eval_at=(9,)), DATASET, folder)
    assert export_bank(folder) == folder / "bank"
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "run")


def test_a_mapped_run_predicts_as_a_run_in_memory(exported, monkeypatch):
    run = ss.restore(exported)
    monkeypatch.setattr("supsup_jax.runs.checkpoints.read_arrays", None)  # restoring reads no tasks
    on_disk = ss.restore(exported, bank_on_disk=True, memory=2**24)
    for search in (SEARCH, "one_shot"):
        expected = run.infer_task(IMAGES, return_scores=True, search=search)
        found = on_disk.infer_task(IMAGES, return_scores=True, search=search)
        np.testing.assert_array_equal(found.tasks, expected.tasks)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(on_disk.infer_task(IMAGES, search=search), expected.tasks)
        predicted = on_disk.predict(IMAGES, search=search)
        np.testing.assert_allclose(predicted.logits, run.predict(IMAGES, search=search).logits, rtol=1e-5, atol=1e-5)
    for task in (0, 8):
        jax.tree.map(np.testing.assert_array_equal, on_disk.mask(task), run.mask(task))
        jax.tree.map(np.testing.assert_array_equal, on_disk.weights_for(task), run.weights_for(task))
    assert on_disk.num_tasks == 9


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["WSN", "PackNet", "Transfer"])
def test_methods_that_train_weights_or_in_turn_are_mapped(method, tmp_path):
    changes = {"method": method, "scenario": "GG", "num_tasks": 3, "steps": 16, "eval_at": ()}
    changes |= {"weights_learning_rate": 1e-2} if method != "Transfer" else {}
    run_experiment(adapter.changed(EXPERIMENT, **changes), DATASET, tmp_path)
    export_bank(tmp_path)
    run, on_disk = ss.restore(tmp_path), ss.restore(tmp_path, bank_on_disk=True)
    for task in range(3):
        jax.tree.map(np.testing.assert_array_equal, on_disk.weights_for(task), run.weights_for(task))


def test_what_needs_all_masks_is_refused(exported):
    on_disk = ss.restore(exported, bank_on_disk=True, memory=2**24)
    with pytest.raises(ss.UserError, match="does not learn; restore it without, learn"):
        on_disk.learn(IMAGES, [0])
    for use in (lambda: on_disk.model, lambda: on_disk.bank, lambda: on_disk.export("program")):
        with pytest.raises(ss.UserError, match="restore it without bank_on_disk to use all of them"):
            use()
    with pytest.raises(ss.UserError, match="search binary needs all masks in memory"):
        on_disk.infer_task(IMAGES, search="binary")
    with pytest.raises(ss.UserError, match="there is no task 9"):
        on_disk.mask(9)
    with pytest.raises(ss.UserError, match=r"memory 1000: must be at least \d+ bytes"):
        ss.restore(exported, bank_on_disk=True, memory=1000)
    with pytest.raises(ss.UserError, match="memory 1000: requires bank_on_disk=True"):
        ss.restore(exported, memory=1000)
    on_disk.memory = 100
    with pytest.raises(ss.UserError, match="scores of 6 images take; give at most 1 at a time"):
        on_disk.infer_task(IMAGES, return_scores=True)


def test_calibrated_mapped_runs_reject_images(folder):
    images, tasks = np.repeat(DATASET.test.images, 9, axis=0)[:180], np.resize(np.arange(9), 180)
    run = ss.restore(folder)
    run.calibrate(images, tasks)
    on_disk = ss.restore(folder, bank_on_disk=True)
    np.testing.assert_array_equal(on_disk.predict(images, reject=0.3).tasks, run.predict(images, reject=0.3).tasks)


def test_the_bank_of_an_earlier_state_is_refused(folder, tmp_path):
    run = ss.restore(folder)
    moved = shutil.move(folder / "bank", tmp_path / "elsewhere")
    with pytest.raises(BankFileError, match=r"run/bank does not contain a bank; .*export-bank RUN"):
        ss.restore(folder, bank_on_disk=True)
    assert ss.restore(folder, bank_on_disk=moved).num_tasks == 9
    labels = DATASET.train.labels
    run.learn(DATASET.train.images, labels, steps=2)
    with pytest.raises(BankFileError, match="holds 9 tasks of a different state of this run"):
        ss.restore(folder, bank_on_disk=moved)
    export_bank(folder, moved, memory=2**12)
    on_disk = ss.restore(folder, bank_on_disk=moved)
    assert on_disk.num_tasks == 10
    jax.tree.map(np.testing.assert_array_equal, on_disk.mask(9), run.mask(9))


@pytest.mark.parametrize("method", thorough_but(["BatchE"], ["BatchE", "PSP", "HopSupSup", "NNs"]))
def test_runs_without_packed_masks_are_refused(method, tmp_path):
    run_experiment(adapter.changed(OTHERS[method], num_tasks=2, eval_at=(), steps=16), DATASET, tmp_path)
    with pytest.raises(ss.UserError, match=r"cannot have a bank on disk, since .* (no masks as bits|stored as scores)"):
        export_bank(tmp_path)
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize("most", thorough_but([16], [1, 16, 10**6]))
def test_tiles_hold_the_tasks_of_all_checkpoints(most):
    weights = {"a": np.zeros((2, 3)), "b": np.zeros(5)}
    masks = random_masks(weights, 41)
    counts = (3, 17, 1, 8, 12)
    chunks, first = [], 0
    for count in counts:
        part = jax.tree.map(lambda leaf, first=first, count=count: leaf[first : first + count], masks)
        stats = {"mean": np.arange(first, first + count + 2)}  # two rows more, as merged checkpoints may hold
        chunks.append(Chunk(count, jax.device_get(banks.pack(part)), stats))
        first += count
    tiles, stats = zip(*bank_export._tiles(iter(chunks), most), strict=True)
    np.testing.assert_array_equal(np.concatenate(tiles, axis=1), rows_of(banks.pack(masks)))
    tasks = np.concatenate([part["mean"] for parts in stats for part in parts])
    np.testing.assert_array_equal(tasks, np.arange(41))
    assert len(tiles) > 1 or most > 100


def test_predictions_from_a_bank_on_disk_by_command(command, exported, tmp_path):
    np.save("images.npy", IMAGES)
    expected = command("predict", exported, "images.npy", "--search", "shortlist")
    bank = command("export-bank", exported, "--output", tmp_path / "bank", "--memory", "10MB").strip()
    assert BankFiles(tmp_path / "bank").num_tasks == 9
    options = ["--bank-on-disk", "--memory", "100MB", "--bank", bank]
    assert command("predict", exported, "images.npy", "--search", "shortlist", *options) == expected
    assert json.loads(command("export-bank", exported, "--json"))["written"].endswith("bank")
    for arguments, words in (
        (["--memory", "1GB"], "--memory 1GB: requires --bank-on-disk"),
        (["--bank-on-disk", "--memory", "much"], "--memory much: must be a size, such as 500MB"),
        (["--bank-on-disk", "--memory", "1KB"], "--memory 1000: must be at least"),
        (["--bank-on-disk", "--bank", tmp_path], "does not contain a bank; write the bank again"),
        (["--bank-on-disk", "--search", "binary"], "search binary needs all masks in memory"),
    ):
        printed = command("predict", exported, "images.npy", *arguments, status=2)
        assert words in printed and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "size"), [("1GB", 10**9), ("1.5 GiB", 1610612736), ("500mb", 5 * 10**8), ("7", 7), ("2kB", 2000)]
)
def test_sizes_have_units(text, size):
    assert parse_bytes("--memory", text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "0"])
def test_text_that_is_not_a_size_is_refused(text):
    with pytest.raises(ss.UserError, match=r"--memory .*: must be a size"):
        parse_bytes("--memory", text)
