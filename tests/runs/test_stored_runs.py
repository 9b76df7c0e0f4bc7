"""Runs written by version 0.1 are restored, predict, evaluate and continue with the same results."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import supsup_jax as ss
from helpers import adapter, stored_runs
from helpers.tiers import thorough_but
from helpers.toys import write_small_imagenet

FROM_COMMANDS = [name for name in stored_runs.NAMES if name != "from-python"]
FINISHED = [name for name in FROM_COMMANDS if not name.startswith("interrupted")]

QUICK = ["interrupted", "nns", "supsup"]
"""Runs of the default tier; the others belong to the thorough tier."""

SLOW_TO_COMPILE = ["imagenet"]
"""Runs whose predictions and tables alone are tested, except in the tier `long`."""

RESUMABLE = [name for name in FROM_COMMANDS if name != "interrupted-with-trained-weights"]
"""Runs that version 0.1 can resume."""

TEST_IMAGES = {name: 30 for name in stored_runs.NAMES if name.startswith(("imagenet", "interrupted-with"))}
TEST_IMAGES |= {"hopsupsup": 62}
"""Number of test images of the smallest task, if it is below 359."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The folder of a small ImageNet."""
    folder = tmp_path_factory.mktemp("data")
    write_small_imagenet(folder)
    return folder


def marked(names, long=()):
    """Return the names of runs as parameters, marked with their tiers."""
    return thorough_but([name for name in QUICK if name in names], names, long)


class Stored:
    """An unpacked run and its JSON file. A copy is resumed when `resumed` is first read."""

    def __init__(self, name: str, folder: Path, images: Path):
        self.name, self.images, self.expected = name, images, stored_runs.expected_of(name)
        self.folder = stored_runs.unpack(name, folder / "before")
        self._later, self._resumed = folder / "after", None
        self.two_images = 2.5 / TEST_IMAGES.get(name, 359)

    @property
    def resumed(self) -> Path:
        if self._resumed is None:
            self._resumed = stored_runs.unpack(self.name, self._later)
            stored_runs.resume(self.expected, self._resumed, self.images)
        return self._resumed


@pytest.fixture(scope="module")
def stored(request, images, tmp_path_factory):
    return Stored(request.param, tmp_path_factory.mktemp("runs"), images)


def assert_nearly_equal(found, expected, most=1):
    """Compare labels or tasks of images; up to `most` of them may differ, because of rounding."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert len(found[name]) == len(values)
        assert sum(a != b for a, b in zip(found[name], values, strict=True)) <= most, name


def assert_same_numbers(stored):
    """Compare the numbers of a resumed run with those of version 0.1."""
    found, expected = stored_runs.measures(stored.resumed), stored.expected["after"]["numbers"]
    assert (found["stream"], found["bytes"]) == (expected["stream"], expected["bytes"])
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-4)
    for part in ("given", "inferred"):
        np.testing.assert_allclose(found[part], expected[part], atol=stored.two_images)


def assert_same_contents(found, expected):
    assert found["arrays"] == expected["arrays"]
    assert set(expected["keys"]) <= set(found["keys"]), "settings may be added, none may be missing"
    if found["orbax"] == expected["orbax"]:
        # Records list only the settings of parts in use, and internal files of Orbax vary by a few hundred bytes.
        assert found["bytes"] == pytest.approx(expected["bytes"], rel=0.1)


@pytest.mark.parametrize("stored", marked(FROM_COMMANDS), indirect=True, scope="module")
def test_a_stored_run_predicts_the_same_as_before(stored):
    found = stored_runs.predictions(stored.folder, stored.expected["how"])
    assert_nearly_equal(found, stored.expected["before"]["predicted"])


@pytest.mark.parametrize("stored", marked(FROM_COMMANDS, SLOW_TO_COMPILE), indirect=True, scope="module")
def test_a_stored_run_has_the_same_accuracies_as_before(stored):
    expected = stored.expected["before"]["evaluated"]
    found = stored_runs.accuracies(stored.folder, stored.expected["how"], stored.images)
    assert found.keys() == expected.keys()
    for task, values in expected.items():
        np.testing.assert_allclose(found[task], values, atol=stored.two_images)


@pytest.mark.parametrize("stored", marked(FROM_COMMANDS, SLOW_TO_COMPILE), indirect=True, scope="module")
def test_a_stored_run_continues_to_the_same_numbers(stored):
    assert_same_numbers(stored)


@pytest.mark.parametrize("stored", marked(RESUMABLE, SLOW_TO_COMPILE), indirect=True, scope="module")
def test_checkpoints_hold_the_same_arrays_and_keys_as_before(stored):
    assert_same_contents(stored_runs.contents(stored.resumed), stored.expected["after"]["contents"])


@pytest.mark.parametrize("stored", marked(FINISHED), indirect=True, scope="module")
def test_commands_read_the_tables_and_settings_of_a_stored_run(stored):
    numbers = stored.expected["before"]["numbers"]
    assert stored_runs.measures(stored.folder) == numbers
    (account,) = json.loads(adapter.call("-m", "bytes", stored.folder, "--json")).values()
    assert account["tasks"] == len(numbers["given"])
    shown = json.loads(adapter.call("-m", "show", stored.folder, "--json"))
    settings = yaml.safe_load((stored.folder / "settings.yaml").read_text())["experiment"]
    assert shown["tasks"] == len(numbers["given"])
    assert (shown["method"], shown["network"]) == (settings["method"], settings["network"])


def test_figures_are_drawn_from_stored_runs(tmp_path):
    drawn = [name for name in FINISHED if name not in ("imagenet", "nns")]
    folders = [stored_runs.unpack(name, tmp_path / "runs") for name in drawn]
    assert all(folder.is_relative_to(tmp_path / "runs") for folder in folders)
    written = json.loads(adapter.call("-m", "plot", tmp_path / "runs", "--output", tmp_path, "--json"))
    names = {Path(path).name for path in written["pictures"]}
    assert {"figure2.png", "figure3.png", "recovery.png"} <= names


def test_the_command_predict_prints_the_stored_predictions(tmp_path):
    expected = stored_runs.expected_of("supsup")["before"]["predicted"]
    folder = stored_runs.unpack("supsup", tmp_path)
    _, *rows = csv.reader(io.StringIO(adapter.call("-m", "predict", folder, folder / "images.npy")))
    found = {"labels": [int(row[1]) for row in rows], "tasks": [int(row[2]) for row in rows]}
    assert_nearly_equal(found, {"labels": expected["labels, task inferred"], "tasks": expected["tasks"]})


def test_an_interrupted_run_was_resumed_to_the_same_numbers():
    interrupted, whole = stored_runs.expected_of("interrupted"), stored_runs.expected_of("supsup")
    assert interrupted["after"]["numbers"] == whole["after"]["numbers"]


@pytest.fixture(scope="module")
def from_python(tmp_path_factory):
    return Stored("from-python", tmp_path_factory.mktemp("runs"), Path())


def test_a_stored_run_from_python_predicts_the_same_as_before(from_python):
    found = stored_runs.own_numbers(ss.restore(from_python.folder))
    assert_nearly_equal(found, from_python.expected["before"]["predicted"])


def test_a_stored_run_from_python_learns_another_task(from_python, tmp_path):
    run = ss.restore(shutil.copytree(from_python.folder, tmp_path / "run"))
    assert run.learn(stored_runs.own_task(2)) == 2
    assert_nearly_equal(stored_runs.own_numbers(run), from_python.expected["after"]["predicted"])
    assert_same_contents(stored_runs.contents(tmp_path / "run"), from_python.expected["after"]["contents"])
