import gc
import json
import shutil
import signal

import jax
import numpy as np
import pytest

from supsup_jax import UserError
from supsup_jax.checkpoints import Checkpoints, Chunk

EXPERIMENT = {"seed": 1}

# Where an array cannot be read, Orbax abandons coroutines, of which Python complains when it collects them.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited:RuntimeWarning"
)


@pytest.fixture(autouse=True)
def collect_abandoned_coroutines():
    gc.collect()
    yield
    gc.collect()


def chunk(tasks, seed):
    rng = np.random.default_rng(seed)
    store = {"dense": rng.integers(0, 256, (6, 4, -(-tasks // 8)), dtype=np.uint8)}
    return Chunk(tasks, store, {"bn": {"mean": rng.normal(size=(tasks, 3)).astype(np.float32)}})


def template(tasks):
    struct = jax.ShapeDtypeStruct
    return {"dense": struct((6, 4, -(-tasks // 8)), np.uint8)}, {"bn": {"mean": struct((tasks, 3), np.float32)}}


@pytest.fixture
def saved(tmp_path):
    chunks = [chunk(8, 0), chunk(3, 1)]
    with Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
        checkpoints.save(chunks[0], {"tasks": 8})
        checkpoints.save(None, {"evaluated": True})
        checkpoints.save(chunks[1], {"tasks": 3})
    return tmp_path, chunks


def test_what_was_saved_is_restored(saved):
    folder, chunks = saved
    with Checkpoints(folder, EXPERIMENT) as checkpoints:
        steps = checkpoints.restore(template).steps
    assert [step.record for step in steps] == [{"tasks": 8}, {"evaluated": True}, {"tasks": 3}]
    assert [step.experiment for step in steps] == [{"seed": 1}] * 3
    assert steps[1].chunk is None
    jax.tree.map(np.testing.assert_array_equal, [tuple(steps[0].chunk), tuple(steps[2].chunk)], [*map(tuple, chunks)])


def test_saving_goes_on_after_restoring(saved):
    folder, _ = saved
    with Checkpoints(folder, EXPERIMENT) as checkpoints:
        checkpoints.save(chunk(2, 2), {"tasks": 2})
    with Checkpoints(folder, EXPERIMENT) as checkpoints:
        steps = checkpoints.restore(template).steps
    assert [step.chunk.num_tasks for step in steps if step.chunk] == [8, 3, 2]


def test_nothing_is_restored_from_an_empty_folder(tmp_path):
    with Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
        assert checkpoints.restore(template) == ([], None)


def test_tasks_without_statistics_are_saved_and_restored(tmp_path):
    one = chunk(8, 0)._replace(stats={})
    with Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
        checkpoints.save(one, {})
        ((step,), _) = checkpoints.restore(lambda tasks: (template(tasks)[0], {}))
    assert step.chunk.stats == {}


def test_an_unfinished_checkpoint_is_ignored(saved):
    folder, _ = saved
    (folder / "checkpoints/3.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(folder, EXPERIMENT) as checkpoints:
        assert len(checkpoints.restore(template).steps) == 3


@pytest.mark.parametrize("victim", ["record/metadata", "arrays/manifest.ocdbt", "arrays/_METADATA"])
def test_a_damaged_checkpoint_is_one_clear_error(saved, victim):
    folder, _ = saved
    path = folder / "checkpoints/0" / victim
    path.write_bytes(path.read_bytes()[:10])
    with (
        Checkpoints(folder, EXPERIMENT) as checkpoints,
        pytest.raises(UserError, match=r"checkpoints/0 cannot be read") as error,
    ):
        checkpoints.restore(template)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("shape", "dtype"), [((6, 5, 1), np.uint8), ((6, 4, 1), np.float32)])
def test_a_checkpoint_of_other_shapes_or_types_is_refused(saved, shape, dtype):
    folder, _ = saved

    def other(tasks):
        return {"dense": jax.ShapeDtypeStruct(shape, dtype)}, template(tasks)[1]

    with Checkpoints(folder, EXPERIMENT) as checkpoints, pytest.raises(UserError, match="other shapes or types"):
        checkpoints.restore(other)


def test_a_missing_checkpoint_is_noticed(saved):
    folder, _ = saved
    shutil.rmtree(folder / "checkpoints/1")
    with Checkpoints(folder, EXPERIMENT) as checkpoints, pytest.raises(UserError, match=r"checkpoints/1 .* is missing"):
        checkpoints.restore(template)


def test_a_checkpoint_of_another_format_is_refused(saved):
    folder, _ = saved
    (folder / "checkpoints/0/record/metadata").write_text('{"format": 0}')
    with Checkpoints(folder, EXPERIMENT) as checkpoints, pytest.raises(UserError, match="is not of format 2"):
        checkpoints.restore(template)


STATE = {"weights": {"dense": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}
STATE_SHAPES = jax.eval_shape(lambda: STATE)


def later(number):
    return jax.tree.map(lambda leaf: leaf + number, STATE)


@pytest.fixture
def replaced(tmp_path):
    """Three steps, each of which replaces the state, and one that does not."""
    with Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
        for number in range(3):
            checkpoints.save(chunk(1, number), {}, later(number))
        checkpoints.save(None, {"evaluated": True})
    return tmp_path


def restored(folder, shapes=STATE_SHAPES):
    with Checkpoints(folder, EXPERIMENT) as checkpoints:
        return checkpoints.restore(template, shapes)


def test_the_last_state_is_restored_and_one_more_is_kept(replaced):
    saved = restored(replaced)
    assert len(saved.steps) == 4
    jax.tree.map(np.testing.assert_array_equal, saved.state, later(2))
    assert sorted(path.name for path in (replaced / "state").iterdir() if path.name.isdecimal()) == ["1", "2"]


def test_a_state_whose_step_did_not_follow_is_not_used_and_replaced(replaced):
    shutil.rmtree(replaced / "checkpoints/3")
    shutil.rmtree(replaced / "checkpoints/2")  # as if the process had ended between the state and its step
    jax.tree.map(np.testing.assert_array_equal, restored(replaced).state, later(1))
    with Checkpoints(replaced, EXPERIMENT) as checkpoints:
        checkpoints.restore(template, STATE_SHAPES)
        checkpoints.save(chunk(1, 7), {}, later(7))
    jax.tree.map(np.testing.assert_array_equal, restored(replaced).state, later(7))


@pytest.mark.parametrize("lost", ["state", "state/2"])
def test_a_missing_state_is_one_clear_error(replaced, lost):
    shutil.rmtree(replaced / lost)
    with pytest.raises(UserError, match=r"state/2 cannot be read"):
        restored(replaced)


def test_a_state_of_other_shapes_is_refused(replaced):
    other = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[:1], STATE))
    with pytest.raises(UserError, match="other shapes or types"):
        restored(replaced, other)


def test_a_run_without_a_state_has_no_folder_for_it(saved):
    assert not (saved[0] / "state").exists()


def test_a_step_written_before_there_were_states_is_read(saved):
    folder, _ = saved
    path = folder / "checkpoints/0/record/metadata"
    plain = json.loads(path.read_text())
    plain.pop("state_step")
    path.write_text(json.dumps(plain))
    assert len(restored(folder).steps) == 3


def test_an_interrupt_during_a_save_comes_after_it(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
        save = checkpoints._steps.save

        def interrupted_save(*arguments, **options):
            signal.raise_signal(signal.SIGINT)
            return save(*arguments, **options)

        monkeypatch.setattr(checkpoints._steps, "save", interrupted_save)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(chunk(2, 0), {"tasks": 2})
    assert [step.record for step in restored(tmp_path).steps] == [{"tasks": 2}]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
