import pytest

from helpers.figures import LENET, write_run
from supsup_jax import UserError
from supsup_jax.paper.imagenet import imagenet_rows
from supsup_jax.runs import results, tables
from supsup_jax.runs.records import Record


def test_each_run_is_found_once_at_any_depth(tmp_path):
    write_run(tmp_path, f"{LENET}/batche", 1, [0.5, 0.75, 1.0])
    folder = write_run(tmp_path / "more", f"{LENET}/psp", 2, [0.5, 0.5, 0.5])
    write_run(tmp_path, "quickstart", 1, [0.5, 0.5])
    runs = tables.read_runs([tmp_path, tmp_path / "more", folder])
    assert {(run.name, run.seed) for run in runs} == {(f"{LENET}/batche", 1), (f"{LENET}/psp", 2), ("quickstart", 1)}
    assert {run.name: run.accuracies for run in runs}[f"{LENET}/batche"] == {
        "given": {2: 62.5, 3: 75},
        "inferred": {},
        "learned": {},
    }


def test_accuracy_right_after_learning_is_the_mean_up_to_each_task(tmp_path):
    write_run(tmp_path, f"{LENET}/bounds", 1, [0.4, 0.6, 0.8], learned=[0.9, 0.8, 0.7, float("nan")])
    (run,) = tables.read_runs([tmp_path])
    assert run.learned == {1: pytest.approx(90), 2: pytest.approx(85), 3: pytest.approx(80)}
    assert run.accuracies["learned"] == {2: pytest.approx(85), 3: pytest.approx(80)}
    assert [run.accuracy("learned", count) for count in (1, 4)] == [pytest.approx(90), None]
    assert [run.accuracy("given", count) for count in (1, 2)] == [None, 50]
    assert run.timing == (4, 2.0, {2: 1.0, 3: 1.0}, {2: 2.0, 3: 3.0})


def test_runs_without_an_evaluation_are_found(tmp_path):
    assert tables.find_runs(tmp_path / "nowhere") == []
    folder = results.new_folder(tmp_path / "a", "seed=1")
    results.write_settings(folder, {"experiment": {"name": "a", "seed": 1}})
    results.write_files(folder, "seed=1", Record())
    (run,) = tables.find_runs(tmp_path)
    assert (run.name, run.accuracies["given"], run.timing.tasks) == ("a", {}, 0)


def test_the_newest_evaluated_run_of_a_seed_comes_first(tmp_path):
    name = f"{LENET}/psp"
    folders = [write_run(tmp_path, name, 1, [0.1 * number] * 2) for number in range(11)]
    results.write_files(results.new_folder(tmp_path / name, "seed=1"), "seed=1", Record())
    unfinished = results.new_folder(tmp_path / name, "seed=1")
    results.write_settings(unfinished, {"experiment": {"name": name, "seed": 1}})
    other = write_run(tmp_path, name, 10, [0.5, 0.5])
    tries = tables.tries(tables.read_runs([tmp_path]))
    assert [[run.folder for run in group] for group in tries] == [folders[::-1], [other]]


def test_each_point_of_a_curve_is_the_mean_over_the_seeds_that_have_it():
    curve = tables.over_seeds([{2: 90.0, 5: 80.0}, {2: 92.0}, {2: 94.0, 5: 84.0}])
    assert curve == ([2, 5], [92, 82], [2, pytest.approx(8**0.5)], 3)
    assert tables.over_seeds([{3: 90.0}]) == ([3], [90], [0], 1)


@pytest.mark.parametrize(
    "matrix",
    [
        "",
        "Num Tasks Learned,Task Identity,Task 0\n1,given,high\n",
        "Num Tasks Learned,Task Identity,Task 0\n1,given,1.5\n",
        "Num Tasks Learned,Task Identity,Task 0\n1,given,nan\n",
        "Num Tasks Learned,Task Identity,Task 0,Task 1\n2,given,0.5\n",
        "Num Tasks Learned,Task Identity,Task 0\n0,given\n",
        "Num Tasks Learned,Task Identity,Task 0\n1,guessed,0.5\n",
        "Num Tasks Learned,Task Identity,Task 0\n1\n",
        b"\xff\xfe\x00",
    ],
)
def test_an_error_names_a_damaged_matrix(tmp_path, matrix):
    folder = write_run(tmp_path, f"{LENET}/psp", 1, [0.5, 0.5])
    (folder / "accuracy_matrix.csv").write_bytes(matrix if isinstance(matrix, bytes) else matrix.encode())
    with pytest.raises(UserError, match=r"accuracy_matrix.csv is damaged; restore it from a copy, or give"):
        tables.read_runs([tmp_path])


@pytest.mark.parametrize("settings", ["{", "experiment: 3", "experiment: {name: x}", "experiment: {name: 3, seed: 1}"])
def test_an_error_names_damaged_settings(tmp_path, settings):
    folder = write_run(tmp_path, f"{LENET}/psp", 1, [0.5, 0.5])
    (folder / "settings.yaml").write_text(settings)
    with pytest.raises(UserError, match=r"settings.yaml is damaged"):
        tables.read_runs([tmp_path])


def test_the_imagenet_table_has_the_papers_rows_and_further_runs(tmp_path):
    name = "GG/splitimagenet/rn50-supsup"
    write_run(tmp_path, name, 1, [0.5, 0.5, 0.8], er_scale=8.0, first_task=0)
    write_run(tmp_path, name, 1, [0.9, 0.9], er_scale=8.0, first_task=1)  # newer, and with fewer tasks
    write_run(tmp_path, name, 2, [0.5, 0.5, 0.5], er_scale=8.0)
    write_run(tmp_path, name, 1, [0.4, 0.4], er_scale=32.0)
    rows = imagenet_rows(tables.read_runs([tmp_path]))
    assert [(row.method, row.er_scale, row.paper is not None) for row in rows] == [
        ("Upper Bound", None, True),
        ("SupSup", 16.0, True),
        ("SupSup", 8.0, True),
        ("SupSup", 4.0, True),
        ("BatchE", None, True),
        ("SupSup", 32.0, False),
    ]
    point = rows[2].point
    assert (point.tasks, point.seeds, point.accuracy) == (3, 2, pytest.approx(55))
    assert (point.megabytes_of_bits, point.megabytes) == (8.25, 4.0)
    assert [row.point is not None for row in rows] == [False, False, True, False, False, True]


def test_without_runs_on_imagenet_its_table_is_an_error(tmp_path):
    write_run(tmp_path, "quickstart", 1, [0.5, 0.5])
    with pytest.raises(UserError, match="no run on SplitImageNet was found"):
        imagenet_rows(tables.read_runs([tmp_path]))
