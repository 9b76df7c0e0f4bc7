import dataclasses
import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import supsup_jax as ss
from helpers.disk import rows_of, scores_on_disk, write_bank
from helpers.searched import FEW, IMAGES, OBJECTIVES, TASKS, learned, unlearned
from helpers.tiers import thorough_but
from helpers.toys import batch_norm_net, model_of, random_masks
from supsup_jax import bank as banks
from supsup_jax.bank import segments
from supsup_jax.bank.files import BankFiles
from supsup_jax.bank.segments import BankFileError, Layout, read_ahead
from supsup_jax.bank.writer import BankWriter, transposed
from supsup_jax.inference import on_disk, shortlist

WITHIN = 2**22
"""A memory limit of a few blocks."""


@pytest.fixture(scope="module")
def model():
    return learned()


@pytest.fixture
def files(model, tmp_path):
    return write_bank(tmp_path / "bank", model)


@pytest.mark.parametrize(
    ("objective", "one_task"),
    thorough_but([("H", False)], [("H", False), ("H", True), ("G", True)]),
)
def test_searches_on_disk_pick_the_same_tasks(objective, one_task, tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "_GAP", 0)
    fitting = learned(OBJECTIVES[objective])
    files = write_bank(tmp_path, fitting)
    short = dataclasses.replace(FEW, objective=OBJECTIVES[objective], one_task=one_task, shortlist=6)
    for search in (short, ss.OneShot(OBJECTIVES[objective])):
        before = files.rows.bytes_read
        found = scores_on_disk(fitting, files, IMAGES, search, memory=WITHIN)
        expected = search.scores(fitting, IMAGES)
        assert found.argmin(1).tolist() == np.asarray(expected).argmin(1).tolist() == [5, 20, 35, 50]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
        whole = files.rows.layout.num_rows * files.rows.layout.num_bytes
        picks = 1 if one_task or search is not short else len(IMAGES)
        assert (files.rows.bytes_read - before < picks * whole) == (search is short)


def test_unclear_picks_read_the_whole_bank_on_disk(tmp_path):
    model = unlearned()
    files, search = write_bank(tmp_path, model), dataclasses.replace(FEW, margin=100.0)
    exact = ss.OneShot().scores(model, IMAGES)
    np.testing.assert_allclose(scores_on_disk(model, files, IMAGES, search), exact, rtol=1e-4, atol=1e-5)


def test_more_rows_are_read_on_disk_as_in_memory(model, files, monkeypatch):
    monkeypatch.setattr(segments, "_GAP", 0)
    search = dataclasses.replace(FEW, share=1 / 32, margin=15.0, shortlist=6)
    shares = shortlist.shortlisted(model, IMAGES, search).share
    assert (shares > 2 / 32).any() and (shares < 1).any()
    expected = search.scores(model, IMAGES)
    np.testing.assert_allclose(scores_on_disk(model, files, IMAGES, search), expected, rtol=1e-3, atol=1e-5)
    num_rows = files.rows.bytes_read / files.rows.layout.num_bytes
    assert num_rows == pytest.approx(float(shares.sum()) * files.rows.layout.num_rows, rel=0.02)


def test_blocks_are_read_ahead(model, files):
    wanted, rows = np.arange(0, len(files.counts), 3), rows_of(model.bank)
    parts = []
    for part, block in read_ahead(files.rows, wanted, 16):
        assert len(block) == 16 and block.ctypes.data % 64 == 0
        time.sleep(0.005)  # the next blocks are read meanwhile
        np.testing.assert_array_equal(block[: part.stop - part.start], rows[wanted[part]])
        parts.append(part)
    assert [parts[0].start, parts[-1].stop, len(parts)] == [0, len(wanted), -(-len(wanted) // 16)]


def test_many_picks_are_multiplied_by_some_tasks_at_a_time(model, files, monkeypatch):
    monkeypatch.setattr(on_disk, "_TILE", 3)  # of 8 bytes
    images = np.resize(IMAGES, (10, *IMAGES.shape[1:]))
    expected = ss.OneShot().scores(model, images)
    np.testing.assert_allclose(scores_on_disk(model, files, images, ss.OneShot()), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.thorough
def test_few_tasks_on_disk_are_searched_exactly(model, files):
    exact = ss.OneShot().scores(model, IMAGES)
    np.testing.assert_allclose(scores_on_disk(model, files, IMAGES, ss.Shortlist()), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_picks_of_several_images_on_disk(model, files):
    images = np.repeat(IMAGES, 3, axis=0)
    assert scores_on_disk(model, files, images, FEW, images_per_pick=3).argmin(1).tolist() == [5, 20, 35, 50]


@pytest.mark.parametrize("by_weights", thorough_but([16], [16, None]))
def test_a_bank_on_disk_holds_the_masks_counts_and_statistics(by_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT", 40)
    monkeypatch.setattr(segments, "_READ", 24)
    net = batch_norm_net()
    weights, stats = net.init(jax.random.key(0))
    masks = random_masks(weights, 13)
    stacked = jax.tree.map(lambda leaf: np.random.default_rng(1).normal(size=(13, *leaf.shape)).astype("f4"), stats)
    model = model_of(net, weights, banks.pack(masks), 13, stacked)
    files = write_bank(tmp_path, model, by_weights=by_weights)
    assert len([*(tmp_path / "segments-1").glob("rows-*")]) > 1
    assert (files.num_tasks, files.source) == (13, "a run")
    np.testing.assert_array_equal(files.counts, np.bitwise_count(rows_of(model.bank)).sum(1))
    for task in (0, 12):
        jax.tree.map(np.testing.assert_array_equal, files.mask(task), jax.tree.leaves(model.adapter(task)))
        jax.tree.map(np.testing.assert_array_equal, files.stats(task), jax.tree.leaves(model.task_stats(task)))
    for found, expected in zip(files.mean_stats(), jax.tree.leaves(model.mean_stats()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    wanted = np.array([0, 1, 3, 7, 8, 20, len(files.counts) - 1])
    out = np.empty((len(wanted), 2), np.uint8)
    files.rows.read(wanted, out)
    np.testing.assert_array_equal(out, rows_of(model.bank)[wanted])


def test_bits_are_transposed(monkeypatch):
    monkeypatch.setattr("supsup_jax.bank.writer._WEIGHTS", 16)
    monkeypatch.setattr("supsup_jax.bank.writer._BYTES", 2)
    bits = np.random.default_rng(0).integers(0, 2, (43, 24), np.uint8)  # weights × tasks
    masks = transposed(np.packbits(bits, axis=1, bitorder="little"))
    np.testing.assert_array_equal(np.unpackbits(masks, axis=1, count=43, bitorder="little"), bits.T)


def damaged(kind, folder):
    """Damage the files of a matrix, and return a word of the error."""
    path = folder / f"bank/segments-1/{kind.partition(' ')[0]}-0000.bin"
    content = bytearray(path.read_bytes())
    if kind.endswith("missing"):
        path.unlink()
        return "is missing"
    if kind.endswith("truncated"):
        path.write_bytes(content[: len(content) // 2])
        return "is truncated"
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    return "checksum mismatch"


@pytest.mark.parametrize("kind", ["rows flipped", "masks flipped", "rows missing", "rows truncated"])
def test_damaged_segments_are_found_as_they_are_read(kind, model, files, tmp_path):
    problem = damaged(kind, tmp_path)
    with pytest.raises(BankFileError, match=rf"{kind.partition(' ')[0]}-0000.bin .*{problem}.*export-bank") as error:
        scores_on_disk(model, files, IMAGES, ss.OneShot())
        files.read_masks(np.arange(TASKS))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["bank.json", "segments-1/counts.bin", "segments-1/rows.crc32"])
def test_damaged_descriptions_are_refused(name, model, files, tmp_path):
    path = tmp_path / "bank" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BankFileError, match=f"{name} .*damaged"):
        BankFiles(tmp_path / "bank")
    path.unlink()
    with pytest.raises(BankFileError, match=r"missing|does not contain a bank"):
        BankFiles(tmp_path / "bank")


def test_banks_of_other_tasks_or_networks_are_refused(model, files):
    files.check(model.weights, "a run")
    with pytest.raises(BankFileError, match="holds 61 tasks of a different state of this run"):
        files.check(model.weights, "a later run")
    with pytest.raises(BankFileError, match="different network"):
        files.check({"other": np.zeros(3)})


def test_an_unfinished_bank_replaces_nothing(model, files, tmp_path):
    rows = rows_of(model.bank)
    incomplete = pytest.raises(ValueError, match="row 0 of the rows is not complete")
    with incomplete, BankWriter(tmp_path / "bank", model.weights, TASKS, "later") as writer:
        writer.write(rows[:, :2])
    with BankWriter(tmp_path / "new", model.weights, TASKS, "killed") as writer:  # as after a kill
        writer.write(rows[:, :2])
        with pytest.raises(BankFileError, match="does not contain a bank"):
            BankFiles(tmp_path / "new")
        writer.write(rows[:, 2:], byte=2)
    (tmp_path / "bank/segments-7").mkdir()  # left over by a killed process
    assert BankFiles(tmp_path / "bank").source == "a run"
    again = write_bank(tmp_path / "bank", model, "later")
    assert again.source == "later" and len([*(tmp_path / "bank").glob("segments-*")]) == 1


def test_tiles_that_do_not_continue_the_bank_are_refused(model, tmp_path):
    rows = rows_of(model.bank)
    with BankWriter(tmp_path, model.weights, TASKS, "a run") as writer:
        with pytest.raises(ValueError, match="up to byte 3"):
            writer.write(rows[:, 3:], byte=3)
        with pytest.raises(ValueError, match="whole bytes"):
            writer.write(rows[:9])
        writer.write(rows)


def test_a_full_disk_is_noticed_before_writing(model, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(ss.UserError, match="the disk has"):
        BankWriter(tmp_path, model.weights, TASKS, "a run").__enter__()


@pytest.mark.parametrize("written", ["supsup_jax.bank.writer._write", "pathlib.Path.write_bytes"])
def test_errors_of_a_full_disk_name_the_file(written, model, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(written, full)
    with pytest.raises(OSError, match="No space") as error, BankWriter(tmp_path, model.weights, TASKS, "a") as writer:
        writer.write(rows_of(model.bank))
    assert Path(error.value.filename).parent == tmp_path / "segments-1"
    assert not [*tmp_path.glob("segments-*")]


class Large:
    """The sizes of a bank of a million tasks of LeNet."""

    counts = np.broadcast_to(np.int32(0), 275_200)
    num_tasks = 1_000_000
    rows, masks = (type("M", (), {"layout": Layout.of("m", 1, size)}) for size in (125_000, 34_400))


@pytest.mark.parametrize("memory", [2**26, 2**28, 2**31])
def test_the_memory_limit_bounds_blocks_and_picks(memory):
    sizes = on_disk.sizes_within(memory, Large, 64)
    assert sizes.rows % 16 == 0 and sizes.rows >= 16 and sizes.picks >= 1
    blocks = 4 * sizes.rows * 125_000
    picks = sizes.picks * 4 * (5 * 275_200 + 6 * 1_000_000)
    assert blocks + picks + 6 * 4 * 275_200 < memory
    assert on_disk.sizes_within(2 * memory, Large, 64).rows >= sizes.rows


def test_too_little_memory_is_refused(model, files):
    with pytest.raises(ss.UserError, match=r"memory 1000: must be at least \d+ bytes"):
        scores_on_disk(model, files, IMAGES, FEW, memory=1000)


@pytest.mark.parametrize("search", [ss.Binary(), ss.Exhaustive()])
def test_other_searches_of_banks_on_disk_are_refused(search, model, files):
    with pytest.raises(ss.UserError, match="needs all masks in memory; give shortlist"):
        scores_on_disk(model, files, IMAGES, search)


@pytest.mark.thorough
def test_a_killed_writer_leaves_nothing_to_read(model, tmp_path):
    program = (
        "import os, signal, sys, numpy as np; from pathlib import Path; from supsup_jax.bank.writer import BankWriter\n"
        "writer = BankWriter(Path(sys.argv[1]), {'a': np.zeros((4, 4))}, 16, 'killed').__enter__()\n"
        "writer.write(np.zeros((16, 1), np.uint8)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for folder in (tmp_path / "new", tmp_path / "old"):
        if folder.name == "old":
            write_bank(folder, model)
        assert subprocess.run([sys.executable, "-c", program, folder]).returncode == -signal.SIGKILL
    with pytest.raises(BankFileError, match="does not contain a bank"):
        BankFiles(tmp_path / "new")
    assert BankFiles(tmp_path / "old").source == "a run"
    for folder in (tmp_path / "new", tmp_path / "old"):
        assert write_bank(folder, model, "again").source == "again"
        assert len([*folder.glob("segments-*")]) == 1
