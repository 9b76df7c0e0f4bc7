"""Small checkpoints are merged into larger ones: the same contents in fewer files, whenever a merge is interrupted."""

import json
import shutil
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

import supsup_jax as ss
from helpers import stored_runs
from helpers.tiers import thorough_but
from helpers.toys import abandons_coroutines
from supsup_jax import UserError, bank
from supsup_jax.runs import checkpoints, merging
from supsup_jax.runs.checkpoints import Checkpoints, Chunk
from supsup_jax.system import atomic
from supsup_jax.system.reading import read_stable

RUN = {"experiment": {"seed": 1}, "inputs": {"image_shape": [2, 2, 1]}, "weights": {"dense": [0.5, 1.5]}}

pytestmark = abandons_coroutines


class Masks:
    """Masks of 6 × 4 weights with statistics, in banks."""

    @staticmethod
    def shapes(tasks):
        struct = jax.ShapeDtypeStruct
        return {"dense": struct((6, 4, -(-tasks // 8)), np.uint8)}, {"mean": struct((tasks, 3), np.float32)}

    @staticmethod
    def concatenate(chunks):
        counts, banks, stats = zip(*chunks, strict=True)
        leaves = [tree["mean"][:count] for tree, count in zip(stats, counts, strict=True)]
        return Chunk(sum(counts), bank.concatenate(banks, counts), {"mean": np.concatenate(leaves)})


def chunk(tasks, seed):
    rng = np.random.default_rng(seed)
    masks = bank.first({"dense": rng.integers(0, 256, (6, 4, -(-tasks // 8)), dtype=np.uint8)}, tasks)
    return Chunk(tasks, masks, {"mean": rng.normal(size=(tasks, 3)).astype(np.float32)})


def save(opened, numbers):
    """Save a chunk for each number, or an evaluation for every fourth, and merge after each."""
    for number in numbers:
        opened.save(None if number % 4 == 3 else chunk(1 + number % 3, number), {"save": number})
        opened.merge(Masks)


def expected(count):
    """Return the records and all tasks of this number of saves."""
    chunks = [chunk(1 + number % 3, number) for number in range(count) if number % 4 != 3]
    return [{"save": number} for number in range(count)], Masks.concatenate(chunks)


def contents(folder, last=None):
    with Checkpoints(folder) as opened:
        steps = opened.restore(Masks.shapes, last=last, concatenate=Masks.concatenate).steps
    assert all(step.run == RUN for step in steps)
    return [step.record for step in steps], Masks.concatenate([step.chunk for step in steps if step.chunk])


def assert_contents(found, wanted):
    assert found[0] == wanted[0]
    jax.tree.map(np.testing.assert_array_equal, tuple(found[1]), tuple(wanted[1]))


def numbers_in(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


@pytest.fixture
def by_two(monkeypatch):
    monkeypatch.setattr(merging, "FACTOR", 2)


def test_the_number_of_checkpoints_grows_with_the_logarithm(tmp_path):
    sizes = [3, 1, 2]
    for _ in range(5000):
        sizes.append(1)
        firsts = [sum(sizes[:number]) for number in range(len(sizes))]
        group = merging.due(tmp_path, firsts, sum(sizes))
        if group:
            at = firsts.index(group[0])
            sizes[at : at + len(group)] = [sum(sizes[at : at + len(group)])]
        assert len(sizes) < 7 * 5
    assert max(sizes) >= 8**4


def test_each_save_is_rewritten_a_few_times(tmp_path):
    sizes, written = [], 0
    for _ in range(4096):
        sizes.append(1)
        firsts = [sum(sizes[:number]) for number in range(len(sizes))]
        if group := merging.due(tmp_path, firsts, sum(sizes)):
            at = firsts.index(group[0])
            written += sum(sizes[at:])
            sizes[at:] = [sum(sizes[at:])]
    assert sizes == [4096] and written <= 4 * 4096


def test_large_checkpoints_are_not_merged(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "LARGEST", 800)
    firsts = [*range(20)]
    for first in firsts:
        (tmp_path / str(first)).mkdir()
        (tmp_path / str(first) / "array").write_bytes(bytes(101 if first == 4 else 90))
    assert merging.due(tmp_path, firsts, 20) == [*range(5, 13)]
    (tmp_path / "14/array").write_bytes(bytes(101))
    assert merging.due(tmp_path, firsts, 20) == []


def test_merged_checkpoints_have_the_same_contents(tmp_path):
    with Checkpoints(tmp_path, RUN) as opened:
        save(opened, range(21))
    assert numbers_in(tmp_path) == [0, 8, 16, 17, 18, 19, 20] and not (tmp_path / "merging").exists()
    assert_contents(contents(tmp_path), expected(21))


def test_a_run_restored_at_a_merged_save_has_its_tasks(tmp_path):
    with Checkpoints(tmp_path, RUN) as opened:
        save(opened, range(9))
    assert numbers_in(tmp_path) == [0, 8]
    for last in range(9):
        assert_contents(contents(tmp_path, last), expected(last + 1))
    for wrong in (9, -1):
        with pytest.raises(UserError, match=f"has no checkpoint {wrong}; give 0 to 8"):
            contents(tmp_path, wrong)


def test_metadata_is_the_same_as_without_merging(tmp_path):
    found = []
    for name in ("merged", "separate"):
        (tmp_path / name).mkdir()
        with Checkpoints(tmp_path / name, RUN | {"flags": {"a": 1}}) as opened:
            for number in range(9):
                opened.save(chunk(2, number), {"save": number})
                opened._run["flags"] = {"a": 1.0}  # equal, but with a different checksum
                if name == "merged":
                    opened.merge(Masks)
        with Checkpoints(tmp_path / name) as opened:
            found.append((opened.records(), opened._digests))
        assert len(numbers_in(tmp_path / name)) == (2 if name == "merged" else 9)
    assert found[0] == found[1]


def test_earlier_versions_reject_merged_checkpoints_by_their_format(tmp_path):
    with Checkpoints(tmp_path, RUN) as opened:
        save(opened, range(10))
    formats = [
        json.loads((tmp_path / f"checkpoints/{first}/record/metadata").read_text())["format"]
        for first in numbers_in(tmp_path)
    ]
    assert formats == [4, 3, 3]  # they read them in order, and report the first one


class KilledError(BaseException):
    """Stands for the end of the process."""


def killed_after(monkeypatch, calls):
    """Raise an error at a call of any function with which a merge changes files; return the list of calls so far."""
    past = []

    def limited(function):
        def call(*arguments, **options):
            past.append(function.__name__)
            if len(past) > calls:
                raise KilledError
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(merging, "save_with_record", limited(merging.save_with_record))
    monkeypatch.setattr(atomic, "sync", limited(atomic.sync))
    monkeypatch.setattr(Path, "rename", limited(Path.rename))
    monkeypatch.setattr(merging.shutil, "rmtree", limited(shutil.rmtree))
    return past


def kill_a_merge(folder, monkeypatch, calls):
    """Merge the checkpoints of a folder until the given call; return whether the merge was killed."""
    with monkeypatch.context() as patched, Checkpoints(folder, RUN) as opened:
        opened.resume()
        past = killed_after(patched, calls)
        try:
            opened.merge(Masks)
        except KilledError:
            return True
        finally:
            past.clear()
    return False


@pytest.mark.thorough
def test_a_merge_may_be_killed_at_any_moment(by_two, tmp_path, monkeypatch):
    (tmp_path / "before").mkdir()
    with Checkpoints(tmp_path / "before", RUN) as opened:
        for number in range(4):
            opened.save(None if number == 3 else chunk(1 + number % 3, number), {"save": number})
    for calls in range(100):
        folder = shutil.copytree(tmp_path / "before", tmp_path / f"{calls}")
        was_killed = kill_a_merge(folder, monkeypatch, calls)
        if was_killed:
            assert_contents(contents(folder), expected(4))  # readers change nothing
        kill_a_merge(folder, monkeypatch, calls // 2)  # again, while it is completed
        assert_contents(contents(folder), expected(4))
        with Checkpoints(folder, RUN) as opened:
            assert opened.resume() == 4
            save(opened, [4, 5])
        assert_contents(contents(folder), expected(6))
        assert not (folder / "merging").exists() and len(numbers_in(folder)) <= 2
        if not was_killed:
            break
    assert calls > 10 and not was_killed


def test_readers_beside_merges_see_a_consistent_state(by_two, tmp_path):
    done = threading.Event()

    def write():
        with Checkpoints(tmp_path, RUN) as opened:
            save(opened, range(24))
        done.set()

    (tmp_path / "checkpoints").mkdir()
    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not done.is_set() or not seen:
        with Checkpoints(tmp_path) as opened:
            if not opened._numbers():
                continue
        folders = [tmp_path, *(tmp_path / name for name in ("checkpoints", "merging"))]
        found = read_stable(lambda: contents(tmp_path), folders)
        assert_contents(found, expected(len(found[0])))
        seen.append(len(found[0]))
    writer.join()
    assert seen == sorted(seen)
    assert_contents(contents(tmp_path), expected(24))


@pytest.fixture
def merged(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with Checkpoints(tmp_path / name, RUN) as opened:
            opened.save(None, {"name": name})
            save(opened, range(1, 18))
        assert numbers_in(tmp_path / name) == [0, 8, 16, 17]
    return tmp_path / "one", tmp_path / "other"


def test_merged_checkpoints_of_another_run_are_detected(merged):
    run, other = merged
    shutil.rmtree(run / "checkpoints/8")
    shutil.copytree(other / "checkpoints/8", run / "checkpoints/8")
    with pytest.raises(UserError, match=r"checkpoints/8 .* does not follow the checkpoint before it"):
        contents(run)


def test_a_missing_merged_checkpoint_is_detected(merged):
    shutil.rmtree(merged[0] / "checkpoints/8")
    with pytest.raises(UserError, match=r"checkpoints/8 cannot be read .it is missing"):
        contents(merged[0])


@pytest.mark.parametrize(
    "change",
    [
        {"saves": 5},
        {"saves": [{}]},
        {"runs": []},
        {"saves": [{"run": 0, "save": {}}]},
        {"saves": [{"run": 7, "save": {}}]},
        {"saves": []},
    ],
)
def test_malformed_metadata_of_a_merged_checkpoint_is_rejected(merged, change):
    path = merged[0] / "checkpoints/0/record/metadata"
    plain = json.loads(path.read_text()) | change
    plain.pop("sha256")
    path.write_text(json.dumps(plain | {"sha256": checkpoints.digest_of_plain(plain)}))
    with pytest.raises(UserError, match=r"checkpoints/0 cannot be read .its metadata is incomplete"):
        contents(merged[0])


def test_a_merge_that_fails_warns_and_loses_nothing(tmp_path, monkeypatch, capfd):
    def full(*_):
        raise UserError("there is no space")

    with Checkpoints(tmp_path, RUN) as opened:
        save(opened, range(7))
        with monkeypatch.context() as patched:
            patched.setattr(merging, "save_with_record", full)
            save(opened, range(7, 10))
    assert f"warning: small checkpoints in {tmp_path} are not merged: there is no space" in capfd.readouterr().err
    assert numbers_in(tmp_path) == [*range(10)]
    assert_contents(contents(tmp_path), expected(10))
    with Checkpoints(tmp_path, RUN) as opened:
        opened.resume()
        save(opened, [10])
    assert numbers_in(tmp_path) == [0]
    assert_contents(contents(tmp_path), expected(11))


def test_an_interrupted_merge_that_cannot_be_completed_is_one_line(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, RUN) as opened:
        save(opened, [0])
    (tmp_path / "merging").mkdir()

    def read_only(_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(merging, "finish", read_only)
    with (
        Checkpoints(tmp_path, RUN) as opened,
        pytest.raises(UserError, match=r"Read-only file system\); make its files"),
    ):
        opened.resume()


def test_a_damaged_checkpoint_is_not_merged(tmp_path, capfd):
    with Checkpoints(tmp_path, RUN) as opened:
        save(opened, range(7))
        path = tmp_path / "checkpoints/2/record/metadata"
        path.write_text(path.read_text().replace('"save": 2', '"save": 3'))
        save(opened, [7])
    assert "checkpoints/2 cannot be read (checksum mismatch" in capfd.readouterr().err
    assert numbers_in(tmp_path) == [*range(8)]


def state_of(run):
    return jax.device_get((run.weights, run.stats, run.bank)), run.record, run.num_tasks


@pytest.mark.parametrize("name", thorough_but(["supsup", "nns", "hopsupsup", "lower-bound"], stored_runs.NAMES))
def test_stored_runs_of_every_method_are_merged(by_two, name, tmp_path):
    folder = stored_runs.unpack(name, tmp_path)
    before = ss.restore(folder)
    saves = before._steps
    with Checkpoints(folder, before.about) as opened:
        assert opened.resume() == saves
        opened.merge(before.tasks)
    assert numbers_in(folder) == ([0] if saves > 1 else [*range(saves)])
    after = ss.restore(folder)
    jax.tree.map(np.testing.assert_array_equal, state_of(after)[0], state_of(before)[0])
    assert state_of(after)[1:] == state_of(before)[1:] and after._steps == saves


def test_all_tasks_of_a_run_are_used_on_cpu_devices_without_a_copy(tmp_path):
    run = ss.restore(stored_runs.unpack("supsup", tmp_path))
    run.tasks.add(run.tasks.merge())
    leaves = jax.tree.leaves(run.tasks.stack())
    used = [leaf.addressable_shards[0].data.unsafe_buffer_pointer() for leaf in jax.tree.leaves(run.model.bank)]
    assert used == [leaf.ctypes.data for leaf in leaves]
