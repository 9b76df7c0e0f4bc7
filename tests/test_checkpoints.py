import gc
import shutil

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
        steps = checkpoints.restore(template)
    assert [step.record for step in steps] == [{"tasks": 8}, {"evaluated": True}, {"tasks": 3}]
    assert [step.experiment for step in steps] == [{"seed": 1}] * 3
    assert steps[1].chunk is None
    jax.tree.map(np.testing.assert_array_equal, [tuple(steps[0].chunk), tuple(steps[2].chunk)], [*map(tuple, chunks)])


def test_saving_goes_on_after_restoring(saved):
    folder, _ = saved
    with Checkpoints(folder, EXPERIMENT) as checkpoints:
        checkpoints.save(chunk(2, 2), {"tasks": 2})
    with Checkpoints(folder, EXPERIMENT) as checkpoints:
        steps = checkpoints.restore(template)
    assert [step.chunk.num_tasks for step in steps if step.chunk] == [8, 3, 2]


def test_nothing_is_restored_from_an_empty_folder(tmp_path):
    with Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
        assert checkpoints.restore(template) == []


def test_tasks_without_statistics_are_saved_and_restored(tmp_path):
    one = chunk(8, 0)._replace(stats={})
    with Checkpoints(tmp_path, EXPERIMENT) as checkpoints:
        checkpoints.save(one, {})
        (step,) = checkpoints.restore(lambda tasks: (template(tasks)[0], {}))
    assert step.chunk.stats == {}


def test_an_unfinished_checkpoint_is_ignored(saved):
    folder, _ = saved
    (folder / "checkpoints/3.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(folder, EXPERIMENT) as checkpoints:
        assert len(checkpoints.restore(template)) == 3


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
    with Checkpoints(folder, EXPERIMENT) as checkpoints, pytest.raises(UserError, match="is not of format 1"):
        checkpoints.restore(template)
