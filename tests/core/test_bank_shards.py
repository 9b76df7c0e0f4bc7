"""Banks divided among devices: the same picks as on one device, and no bank that moves between devices."""

import os
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import supsup_jax as ss
from helpers import adapter
from helpers.runs import SHORT
from helpers.tiers import thorough_but
from helpers.toys import model_of, random_masks, small_dataset
from supsup_jax import bank as banks
from supsup_jax import evaluation, inference, networks
from supsup_jax.inference import searches
from supsup_jax.runs.train import run_experiment
from supsup_jax.system import backend, devices

NET = networks.LeNet(features=7, width=0.05, input_shape=(5, 5, 1))
TASKS = 61
IMAGES = jax.random.normal(jax.random.key(2), (3, 5, 5, 1))
OBJECTIVES = {"H": ss.entropy, "G": ss.superfluous(real=2)}


def search_of(name, objective):
    """Return a search by name, with a list that is shorter than the tasks."""
    objective, kind = OBJECTIVES[objective], getattr(inference, name)
    return kind(objective, shortlist=3, share=0.25, margin=1.0) if name == "Shortlist" else kind(objective)


def model():
    weights, _ = NET.init(jax.random.key(0))
    return model_of(NET, weights, banks.pack(random_masks(weights, TASKS)), TASKS)


def traffic(search, sharded):
    """Return shape and kind of everything that moves between devices in a search."""
    program = searches._infer.lower(sharded, IMAGES, search=search, images_per_pick=1).compile().as_text()
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    return re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", program)


def compare(name, objective, images_per_pick):
    """Compare a search over all devices of this process with the same search on one device."""
    whole, search = model(), search_of(name, objective)
    sharded = whole.sharded()
    if not search.picks_smallest:
        picks = ss.infer(whole, IMAGES, search, images_per_pick)
        np.testing.assert_array_equal(ss.infer(sharded, IMAGES, search, images_per_pick), picks)
        return
    expected, found = (search.scores(each, IMAGES, images_per_pick) for each in (whole, sharded))
    np.testing.assert_array_equal(found.argmin(1), expected.argmin(1))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)  # XLA adds in other orders for other shapes


CASES = [
    (name, objective, images)
    for name in ("OneShot", "Binary", "Shortlist", "Exhaustive")
    for objective in OBJECTIVES
    for images in (1, 3)
]


@pytest.mark.parametrize(("name", "objective", "images_per_pick"), thorough_but([("Shortlist", "H", 1)], CASES))
def test_picks_equal_those_of_one_device(name, objective, images_per_pick):
    compare(name, objective, images_per_pick)


FOUR = """
import sys
sys.path.insert(0, sys.argv[1])
from core import test_bank_shards as test

assert len(test.jax.devices()) == 4
for case in sys.argv[2:]:
    name, objective, images = case.split()
    test.compare(name, objective, int(images))
    moved = test.traffic(test.search_of(name, objective), test.model().sharded())
    # Scores, counts and picks move, but no bytes of the bank. Exhaustive sends the mask that it tries to all devices.
    assert moved and (name == "Exhaustive" or not any("u8[" in shape for shape, _ in moved)), moved
"""


def on_four_devices(*cases):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
        "PYTHONPATH": f"{adapter.ROOT}:{adapter.ROOT}/tests",
    }
    command = [sys.executable, "-c", FOUR, str(adapter.ROOT / "tests"), *(" ".join(map(str, case)) for case in cases)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    "cases",
    [
        [("OneShot", "H", 1), ("Binary", "G", 3)],
        pytest.param(CASES, marks=pytest.mark.thorough),
    ],
    ids=["some", "all"],
)
def test_four_devices_pick_as_one_and_move_no_bank(cases):
    ended = on_four_devices(*cases)
    assert not ended.returncode, ended.stderr


def test_many_picks_are_multiplied_as_matrices():
    whole, images = model(), jax.random.normal(jax.random.key(3), (24, 5, 5, 1))
    scores = ss.OneShot().scores(whole, images)
    found = ss.OneShot().scores(whole.sharded(), images)
    np.testing.assert_array_equal(found.argmin(1), scores.argmin(1))
    np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-6)


def test_each_device_holds_its_tasks_and_the_masks_are_the_same():
    whole = model()
    sharded = whole.sharded()
    kernel = sharded.bank["dense0"]["kernel"]
    assert {part.data.shape[-1] for part in kernel.addressable_shards} == {4}  # of 8 bytes
    for task in (0, 31, 32, TASKS - 1):
        jax.tree.map(np.testing.assert_array_equal, sharded.adapter(task), whole.adapter(task))
    jax.tree.map(np.testing.assert_array_equal, sharded.with_counts().counts, whole.with_counts().counts)
    with pytest.raises(IndexError, match="task 61 is not among the 61 tasks of this model"):
        sharded.adapter(TASKS)


def test_a_bank_is_read_in_the_parts_of_the_devices():
    class Recorded(np.ndarray):
        def __getitem__(self, index):
            read.append(index[-1])
            return super().__getitem__(index)

    read, whole = [], model()
    bank = jax.tree.map(lambda leaf: np.asarray(leaf).view(Recorded), whole.bank["dense0"])
    whole.sharded().shards.place(bank)
    assert sorted(read, key=str) == [slice(0, 4, None), slice(4, 8, None)]


def test_a_model_with_fewer_bytes_than_devices_is_sharded():
    weights, _ = NET.init(jax.random.key(0))
    whole = model_of(NET, weights, banks.pack(random_masks(weights, 3)), 3)
    picks = ss.infer(whole, IMAGES, ss.OneShot())
    np.testing.assert_array_equal(ss.infer(whole.sharded(), IMAGES, ss.OneShot()), picks)


def test_models_that_cannot_be_sharded_are_refused():
    whole = model()
    with pytest.raises(ss.UserError, match="there are no tasks yet"):
        ss.Model.init(NET, ss.methods.SupSup(), jax.random.key(0)).sharded()
    with pytest.raises(ss.UserError, match="BatchE has no masks"):
        ss.Model.init(NET, ss.methods.BatchE(), jax.random.key(0)).sharded()
    with pytest.raises(ss.UserError, match="devices has 2 entries, 1 of them different"):
        whole.sharded(jax.devices()[:1] * 2)
    for wrong in (3, "cpu"):
        with pytest.raises(ss.UserError, match="give a list of devices, such as"):
            whole.sharded(wrong)
    with pytest.raises(ss.UserError, match="sharded already"):
        whole.sharded().sharded()
    with pytest.raises(ss.UserError, match="a sharded model cannot be extended"):
        whole.sharded().extend(None)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run_experiment(adapter.changed(SHORT, num_tasks=3, eval_at=(3,)), small_dataset(), folder)
    return folder


def test_runs_predict_and_evaluate_with_a_sharded_bank(run_folder):
    data, run, sharded = small_dataset(), ss.restore(run_folder), ss.restore(run_folder)
    sharded.shard_bank()
    expected, found = run.predict(data.test.images[:8]), sharded.predict(data.test.images[:8])
    np.testing.assert_array_equal(found.tasks, expected.tasks)
    np.testing.assert_array_equal(found.logits, expected.logits)
    before, after = (vars(ss.evaluate(each, None, "inferred", data)) for each in (run, sharded))
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_evaluations_shard_banks_that_no_accelerator_holds(monkeypatch):
    whole = model()
    assert evaluation._sharded_if_large(whole).shards is None
    monkeypatch.setattr(backend, "is_accelerator", lambda: True)
    assert evaluation._sharded_if_large(whole).shards is None
    monkeypatch.setattr(devices, "fits", lambda num_bytes: False)
    assert evaluation._sharded_if_large(whole).shards.mesh.size == 2


def test_the_command_predict_divides_the_bank(run_folder, command, tmp_path):
    np.save(tmp_path / "images.npy", small_dataset().test.images[:8])
    printed = command("predict", run_folder, "images.npy")
    assert command("predict", run_folder, "images.npy", "--shard-bank") == printed
    error = command("predict", run_folder, "images.npy", "--hosts", 2, status=2)
    assert error == "error: --coordinator, --hosts and --host must be given together; give all of them, or none\n"


def by_two_processes(folder, *arguments):
    """Run a command of the package on two hosts of this machine, in a folder."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    start = [sys.executable, "-m", "supsup_jax", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(adapter.ROOT), "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen(
            [*start, "--coordinator", address, "--hosts", "2", "--host", str(host)],
            env=environment,
            cwd=folder,
            **pipes,
        )
        for host in range(2)
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr


def test_two_processes_predict_together(run_folder, command, tmp_path):
    np.save(tmp_path / "images.npy", small_dataset().test.images[:8])
    printed = command("predict", run_folder, "images.npy")
    by_two_processes(tmp_path, "predict", run_folder, "images.npy", "--output", "out.csv")
    assert (tmp_path / "out.csv").read_text() == printed


@pytest.mark.thorough
def test_two_processes_evaluate_together(command, tmp_path):
    run = adapter.ROOT / "tests/stored/format-2-SupSup"  # of digits, which come with the package
    inferred = "evaluate", run, "--task", "inferred", "--output"
    command(*inferred, "alone.csv")
    by_two_processes(tmp_path, *inferred, "together.csv")
    assert (tmp_path / "together.csv").read_text() == (tmp_path / "alone.csv").read_text()
