import gc
import itertools
import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from helpers.tiers import thorough_but
from helpers.toys import abandons_coroutines
from supsup_jax import UserError
from supsup_jax.runs import steps
from supsup_jax.runs.checkpoints import Checkpoints, Chunk

RUN = {"experiment": {"seed": 1}, "inputs": {"image_shape": [2, 2, 1]}}

pytestmark = abandons_coroutines


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_collect():
    """Exclude existing objects from garbage collection, which would take seconds each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def collect_abandoned_coroutines():
    gc.collect()
    yield
    gc.collect()


def chunk(tasks, seed):
    rng = np.random.default_rng(seed)
    bank = {"dense": rng.integers(0, 256, (6, 4, -(-tasks // 8)), dtype=np.uint8)}
    return Chunk(tasks, bank, {"bn": {"mean": rng.normal(size=(tasks, 3)).astype(np.float32)}})


def template(tasks):
    struct = jax.ShapeDtypeStruct
    return {"dense": struct((6, 4, -(-tasks // 8)), np.uint8)}, {"bn": {"mean": struct((tasks, 3), np.float32)}}


@pytest.fixture
def saved(tmp_path):
    chunks = [chunk(8, 0), chunk(3, 1)]
    with Checkpoints(tmp_path, RUN) as opened:
        opened.save(chunks[0], {"tasks": 8})
        opened.save(None, {"evaluated": True})
        opened.save(chunks[1], {"tasks": 3})
    return tmp_path, chunks


def test_restore_returns_saved_contents(saved):
    folder, chunks = saved
    with Checkpoints(folder, RUN) as opened:
        steps = opened.restore(template).steps
    assert [step.record for step in steps] == [{"tasks": 8}, {"evaluated": True}, {"tasks": 3}]
    assert [step.run for step in steps] == [RUN] * 3
    assert steps[1].chunk is None
    jax.tree.map(np.testing.assert_array_equal, [tuple(steps[0].chunk), tuple(steps[2].chunk)], [*map(tuple, chunks)])


def test_saving_continues_after_resume(saved):
    folder, _ = saved
    with Checkpoints(folder, RUN) as opened:
        assert opened.resume() == 3
        opened.save(chunk(2, 2), {"tasks": 2})
    with Checkpoints(folder, RUN) as opened:
        steps = opened.restore(template).steps
    assert [step.chunk.num_tasks for step in steps if step.chunk] == [8, 3, 2]


def test_restore_from_an_empty_folder_returns_nothing(tmp_path):
    with Checkpoints(tmp_path, RUN) as opened:
        assert opened.restore(template) == ([], None)


def test_tasks_without_statistics_are_saved_and_restored(tmp_path):
    without_stats = chunk(8, 0)._replace(stats={})
    with Checkpoints(tmp_path, RUN) as opened:
        opened.save(without_stats, {})
        ((step,), _) = opened.restore(lambda tasks: (template(tasks)[0], {}))
    assert step.chunk.stats == {}


def test_an_unfinished_checkpoint_is_ignored(saved):
    folder, _ = saved
    (folder / "checkpoints/3.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(folder, RUN) as opened:
        assert len(opened.restore(template).steps) == 3


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": flip,
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", thorough_but(["flipped"], DAMAGES))
def test_a_damaged_file_raises_a_one_line_error_or_is_harmless(saved, damage, tmp_path_factory):
    folder, chunks = saved
    files = sorted(path.relative_to(folder) for path in (folder / "checkpoints").rglob("*") if path.is_file())
    noticed = 0
    for file in files:
        copy = tmp_path_factory.mktemp("damaged") / "run"
        shutil.copytree(folder, copy)
        if not (copy / file).stat().st_size and damage != "missing":
            continue
        DAMAGES[damage](copy / file)
        try:
            with Checkpoints(copy, RUN) as opened:
                steps = opened.restore(template).steps
        except UserError as error:
            assert re.search(r"checkpoints/\d cannot be read", str(error)) and "\n" not in str(error)
            noticed += 1
        else:  # the file holds internal data of Orbax, such as times
            kept = [step.chunk for step in steps if step.chunk]
            assert [step.record for step in steps] == [{"tasks": 8}, {"evaluated": True}, {"tasks": 3}]
            jax.tree.map(np.testing.assert_array_equal, [*map(tuple, kept)], [*map(tuple, chunks)])
    assert noticed >= 3 * 2


def swap(first, second):
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


@pytest.mark.parametrize(
    ("first", "second", "part"),
    thorough_but(
        [(0, 3, ""), (1, 2, "record"), (2, 3, "arrays")],
        [(*pair, part) for pair in itertools.combinations(range(4), 2) for part in ("", "record", "arrays")],
    ),
)
def test_swapped_checkpoints_are_detected(tmp_path, first, second, part):
    with Checkpoints(tmp_path, RUN) as opened:
        for number in range(4):
            opened.save(chunk(2, number), {})
    swap(tmp_path / f"checkpoints/{first}" / part, tmp_path / f"checkpoints/{second}" / part)
    for last in (None, second):
        with Checkpoints(tmp_path, RUN) as opened, pytest.raises(UserError, match=r"checkpoints/\d cannot be read"):
            opened.restore(template, last=last)


def test_a_checkpoint_of_another_run_is_detected(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with Checkpoints(tmp_path / name, RUN) as opened:
            opened.save(chunk(2, 0), {"run": name})
            opened.save(chunk(2, 1), {})
    swap(tmp_path / "one/checkpoints/1", tmp_path / "other/checkpoints/1")
    for name in ("one", "other"):
        with (
            Checkpoints(tmp_path / name) as opened,
            pytest.raises(UserError, match="does not follow the checkpoint before it"),
        ):
            opened.restore(template)


def test_swapped_states_are_detected(replaced):
    swap(replaced / "state/1", replaced / "state/2")
    with pytest.raises(UserError, match=r"state/2 cannot be read"):
        restored(replaced)


CONTENTS = ["[]", "5", '"x"', "{", "", "[" * 5_000, '{"init_timestamp_nsecs": []}']


@pytest.mark.parametrize("content", thorough_but(["5", "{", "[" * 5_000], CONTENTS))
def test_damaged_orbax_metadata_raises_a_one_line_error_or_is_harmless(saved, content, capfd):
    folder, _ = saved
    (folder / "checkpoints/1/_CHECKPOINT_METADATA").write_text(content)
    capfd.readouterr()
    try:
        with Checkpoints(folder) as opened:
            steps = opened.restore(template).steps
    except UserError as error:
        assert "\n" not in str(error) and str(folder / "checkpoints") in str(error)
    else:
        assert len(steps) == 3
    assert not "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("file", "kind"),
    thorough_but(
        [("record/metadata", "endless"), ("arrays/_METADATA", "link"), ("_CHECKPOINT_METADATA", "pipe")],
        itertools.product(["record/metadata", "arrays/_METADATA", "_CHECKPOINT_METADATA"], ["link", "endless", "pipe"]),
    ),
)
def test_links_and_special_files_are_rejected(saved, kind, file, tmp_path):
    folder, _ = saved
    path = folder / "checkpoints/2" / file
    outside = tmp_path / "outside"
    path.rename(outside)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "endless" else outside)
    with (
        Checkpoints(folder) as opened,
        pytest.raises(UserError, match=f"{file} cannot be read .it is a link or a special file"),
    ):
        opened.restore(template)


@pytest.mark.parametrize("changed", ["arrays", "record"])
def test_changed_contents_are_detected_by_their_checksum(saved, changed):
    folder, _ = saved
    path = folder / "checkpoints/2/record/metadata"
    plain = json.loads(path.read_text())
    if changed == "arrays":
        plain["arrays_sha256"] = "0" * 64
        plain.pop("sha256")
        plain["sha256"] = steps.digest_of_plain(plain)
    else:
        plain["record"]["tasks"] = 4
    path.write_text(json.dumps(plain))
    with Checkpoints(folder, RUN) as opened, pytest.raises(UserError, match="checksum"):
        opened.restore(template)


@pytest.mark.parametrize(("shape", "dtype"), [((6, 5, 1), np.uint8), ((6, 4, 1), np.float32)])
def test_a_checkpoint_with_wrong_shapes_or_dtypes_is_rejected(saved, shape, dtype):
    folder, _ = saved

    def other(tasks):
        return {"dense": jax.ShapeDtypeStruct(shape, dtype)}, template(tasks)[1]

    with Checkpoints(folder, RUN) as opened, pytest.raises(UserError, match="shapes or dtypes of its arrays differ"):
        opened.restore(other)


def test_a_missing_checkpoint_is_detected(saved):
    folder, _ = saved
    shutil.rmtree(folder / "checkpoints/1")
    with Checkpoints(folder, RUN) as opened, pytest.raises(UserError, match=r"checkpoints/1 .* is missing"):
        opened.restore(template)


def test_a_checkpoint_with_an_unknown_format_is_rejected(saved):
    folder, _ = saved
    plain = {"format": 0}
    plain["sha256"] = steps.digest_of_plain(plain)
    (folder / "checkpoints/0/record/metadata").write_text(json.dumps(plain))
    with Checkpoints(folder, RUN) as opened, pytest.raises(UserError, match="its format is 0; this version reads"):
        opened.restore(template)


STATE = {"weights": {"dense": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}
STATE_SHAPES = jax.eval_shape(lambda: STATE)


def later(number):
    return jax.tree.map(lambda leaf: leaf + number, STATE)


@pytest.fixture
def replaced(tmp_path):
    """Three checkpoints that replace the state, and a fourth one that does not."""
    with Checkpoints(tmp_path, RUN) as opened:
        for number in range(3):
            opened.save(chunk(1, number), {}, later(number))
        opened.save(None, {"evaluated": True})
    return tmp_path


def restored(folder, shapes=STATE_SHAPES):
    with Checkpoints(folder, RUN) as opened:
        return opened.restore(template, shapes)


def test_the_last_state_is_restored_and_the_previous_one_is_kept(replaced):
    saved = restored(replaced)
    assert len(saved.steps) == 4
    jax.tree.map(np.testing.assert_array_equal, saved.state, later(2))
    assert sorted(path.name for path in (replaced / "state").iterdir() if path.name.isdecimal()) == ["1", "2"]


def test_a_state_without_its_checkpoint_is_ignored_and_replaced(replaced):
    shutil.rmtree(replaced / "checkpoints/3")
    shutil.rmtree(replaced / "checkpoints/2")  # as if the process had ended between the state and its checkpoint
    jax.tree.map(np.testing.assert_array_equal, restored(replaced).state, later(1))
    with Checkpoints(replaced, RUN) as opened:
        opened.restore(template, STATE_SHAPES)
        opened.save(chunk(1, 7), {}, later(7))
    jax.tree.map(np.testing.assert_array_equal, restored(replaced).state, later(7))


@pytest.mark.parametrize("lost", ["state", "state/2"])
def test_a_missing_state_raises_a_one_line_error(replaced, lost):
    shutil.rmtree(replaced / lost)
    with pytest.raises(UserError, match=r"state/2 cannot be read"):
        restored(replaced)


def test_a_state_with_wrong_shapes_is_rejected(replaced):
    other = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[:1], STATE))
    with pytest.raises(UserError, match="shapes or dtypes of its arrays differ"):
        restored(replaced, other)


def test_a_run_without_a_state_has_no_folder_for_it(saved):
    assert not (saved[0] / "state").exists()


def test_a_run_is_restored_at_an_earlier_checkpoint(replaced):
    with Checkpoints(replaced) as opened:
        saved = opened.restore(template, STATE_SHAPES, last=1)
        assert len(saved.steps) == 2
        jax.tree.map(np.testing.assert_array_equal, saved.state, later(1))
        with pytest.raises(UserError, match=r"state/0 cannot be read .*replaced"):
            opened.restore(template, STATE_SHAPES, last=0)
        with pytest.raises(UserError, match="no checkpoint 7; give 0 to 3"):
            opened.restore(template, STATE_SHAPES, last=7)


@pytest.fixture
def test_an_interrupt_during_a_save_is_raised_after_it(tmp_path, monkeypatch):
    """Let SIGINT interrupt, which a shell's background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def interruptible():
    """Let SIGINT interrupt; a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_during_a_save_comes_after_it(interruptible, tmp_path, monkeypatch):
    with Checkpoints(tmp_path, RUN) as opened:
        save = opened._steps.save

        def interrupted_save(*arguments, **options):
            signal.raise_signal(signal.SIGINT)
            return save(*arguments, **options)

        monkeypatch.setattr(opened._steps, "save", interrupted_save)
        with pytest.raises(KeyboardInterrupt):
            opened.save(chunk(2, 0), {"tasks": 2})
    assert [step.record for step in restored(tmp_path).steps] == [{"tasks": 2}]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
