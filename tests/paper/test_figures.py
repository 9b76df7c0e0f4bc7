import numpy as np
import pytest
from matplotlib.image import imread

from helpers.figures import CIFAR, FC, HOPSUPSUP, LENET, LONG, colours, paths, write_run
from helpers.runs import evaluation
from supsup_jax import UserError
from supsup_jax.paper import figures, looks, published
from supsup_jax.runs import tables
from supsup_jax.runs.records import EvaluationResult, Record


def rgb(colour):
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def test_a_run_is_drawn_in_the_format_of_the_suffix(tmp_path):
    gradients = np.random.default_rng(0).normal(size=(2, 5))
    for suffix in ("png", "pdf"):
        path = tmp_path / f"run.{suffix}"
        figures.draw_run(path, "a run", Record([], [evaluation(3), evaluation(5)]), gradients, [1, 4])
        assert path.stat().st_size > 5000
    picture = imread(tmp_path / "run.png")
    assert picture.shape[:2] == (630, 1500)
    assert len(colours(tmp_path / "run.png")) > 50


@pytest.mark.parametrize("name", [f"{LENET}/supsup_h", f"{LENET}/bounds", "quickstart"])
def test_accuracy_is_drawn_with_and_without_points_of_the_paper(tmp_path, name):
    figures.draw_accuracy(tmp_path / "accuracy.png", name, 1, Record([], [evaluation(3)]))
    assert {rgb(figures.BLUE), rgb(figures.ORANGE)} <= colours(tmp_path / "accuracy.png")


def test_without_task_inference_only_accuracy_with_the_task_given_is_drawn(tmp_path):
    given = EvaluationResult(3, "2020-12-06 12:00:00", 1.0, 1.0, {"masks as bits": 8}, [0.8, 0.9, 1.0])
    figures.draw_accuracy(tmp_path / "accuracy.png", f"{LENET}/batche", 1, Record([], [given]))
    assert rgb(figures.BLUE) in colours(tmp_path / "accuracy.png")
    assert rgb(figures.ORANGE) not in colours(tmp_path / "accuracy.png")


def test_a_figure_that_cannot_be_written_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "accuracy.png"
    path.write_text("before")

    def fail(figure, where, **_):
        where.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        figures.draw_accuracy(path, "x", 1, Record([], [evaluation(3)]))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("accuracy.png", "before")]


@pytest.mark.parametrize(
    ("curve", "accuracy"),
    [(f"{LENET}/supsup_g", 50), ("NNs/supsup", 50), ("GNu/MNISTRotate/supsup", 50)]
    + [(f"{FC}/{method}", 100) for method in ("batche", "psp", "lower_bound")]
    + [(f"{FC}/upper_bound", 75)],
)
def test_a_curve_has_the_same_kind_of_accuracy_as_the_papers(tmp_path, curve, accuracy):
    write_run(tmp_path, published.measurement(curve).run, 1, [1.0, 1.0], [0.5, 0.5], learned=[0.5, 1.0, 1.0])
    assert figures.accuracy_curve(curve, tables.read_runs([tmp_path])).mean == [accuracy]


def test_seeds_with_other_settings_or_missing_measurements_are_rejected(tmp_path):
    name = f"{LENET}/supsup_h"
    write_run(tmp_path, name, 1, [0.5] * 3, [0.5] * 3, num_tasks=3, unknown=0.9)
    write_run(tmp_path, name, 2, [0.5] * 4, [0.5] * 4, num_tasks=4)  # older than the setting `unknown`
    assert figures.accuracy_curve(name, tables.read_runs([tmp_path])).at == [2, 3, 4]
    write_run(tmp_path, name, 3, [0.5] * 3, [0.5] * 3, steps=10)
    with pytest.raises(UserError, match=r"seed=1 and .*seed=3 differ in steps \(1000 and 10\)"):
        figures.accuracy_curve(name, sorted(tables.read_runs([tmp_path]), key=lambda run: run.seed))
    folder = write_run(tmp_path, name, 4, [0.5] * 3)
    with pytest.raises(UserError, match="seed=4 was not evaluated with the task inferred"):
        figures.accuracy_curve(name, tables.read_runs([folder]))
    folder = write_run(tmp_path, f"{LENET}/bounds", 4, [0.5] * 3)
    with pytest.raises(UserError, match="seed=4 has no accuracy of each task right after it was learned"):
        figures.accuracy_curve(f"{LENET}/upper_bound", tables.read_runs([folder]))


def test_each_figure_is_drawn_from_the_runs_of_its_experiments(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, f"{LENET}/supsup_h", seed, [0.9] * 3, [0.9 + seed / 100] * 3)
    write_run(tmp_path, f"{LENET}/bounds", 1, [0.9, 0.3, 0.1], learned=[0.95] * 3)
    write_run(tmp_path, f"{LENET}/upper_bound", 1, [0.95] * 3)  # an experiment of version 0.1
    write_run(tmp_path, f"{LONG}/bounds", 1, [0.95] * 3, learned=[0.95] * 3)
    write_run(tmp_path, HOPSUPSUP, 1, [0.9] * 3, [0.9] * 3, paths(3, 8))
    pictures = figures.draw_paper(tables.read_runs([tmp_path]))
    assert list(pictures) == ["figure3", "figure4", "recovery"]
    for name, width in (("figure3", 1240), ("figure4", 1240), ("recovery", 2200)):
        figures.save(pictures[name], tmp_path / f"{name}.png")
        assert imread(tmp_path / f"{name}.png").shape[1] == width
    drawn = {rgb(figures.BLUE), rgb(figures.GREY), rgb(looks.AMBER), (0, 0, 0)}
    assert drawn <= colours(tmp_path / "figure3.png")
    assert rgb(looks.AMBER) in colours(tmp_path / "figure4.png")
    assert {rgb(looks.BLUE), rgb(looks.AMBER), rgb(looks.SKY)} <= colours(tmp_path / "recovery.png")

    write_run(tmp_path, f"{FC}/psp", 1, [0.9] * 3)
    both = figures.draw_paper(tables.read_runs([tmp_path]))["figure3"]
    assert [column.axes[0].get_title() for column in both.subfigs] == ["left: LeNet 300-100", "right: FC 1024-1024"]


def test_figure_2_has_a_point_for_each_sparsity(tmp_path):
    for seed, scale, accuracy in ((0, 16.0, 0.9), (1, 16.0, 0.92), (0, 2.0, 0.8)):
        write_run(tmp_path, f"{CIFAR}-supsup", seed, [accuracy] * 3, er_scale=scale)
    write_run(tmp_path, f"{CIFAR}-upperbound", 0, [0.95] * 3)
    runs = tables.read_runs([tmp_path])
    sparse, dense = tables.storage_points([run for run in runs if run.er_scale])
    assert dense == (16.0, 3, 4.0, 8.25, pytest.approx(91), pytest.approx(2**0.5), 2)
    assert sparse == (2.0, 3, 4.0, 8.25, pytest.approx(80), 0, 1)
    (axes,) = figures.draw_paper(runs)["figure2"].axes
    assert [len(container.lines[0].get_xdata()) for container in axes.containers] == [2, 1]
    assert axes.get_xscale() == "log"


def test_runs_of_different_lengths_cannot_be_averaged(tmp_path):
    write_run(tmp_path, f"{CIFAR}-supsup", 0, [0.9] * 3, er_scale=1.0)
    write_run(tmp_path, f"{CIFAR}-supsup", 1, [0.9] * 4, er_scale=1.0)
    with pytest.raises(UserError, match="finished runs with the same number of tasks"):
        tables.storage_points(tables.read_runs([tmp_path]))


def test_curves_far_below_the_others_have_a_separate_scale(tmp_path):
    write_run(tmp_path, f"{LENET}/supsup_h", 1, [0.93] * 3, [0.93] * 3)
    write_run(tmp_path, f"{LENET}/batche", 1, [0.8823] * 3)
    (column,) = figures.draw_paper(tables.read_runs([tmp_path]))["figure3"].subfigs
    assert [axes.get_ylim() for axes in column.axes] == [(87, pytest.approx(93.98))]
    write_run(tmp_path, f"{LENET}/psp", 1, [0.93, 0.93, 0.1])
    (column,) = figures.draw_paper(tables.read_runs([tmp_path]))["figure3"].subfigs
    assert [axes.get_ylim() for axes in column.axes] == [(87, pytest.approx(95.1)), (0, 87)]


def test_the_last_recovery_is_drawn_up_to_its_last_step(tmp_path):
    folder = write_run(tmp_path, HOPSUPSUP, 1, [0.9] * 3, [0.9] * 3, paths(3, 8))
    rows = (folder / "recovery.csv").read_text().splitlines()
    (folder / "recovery.csv").write_text("\n".join([*rows, "2,0,0,5,5,5"]) + "\n")
    (picture,) = figures.draw_paper(tables.read_runs([tmp_path])).values()
    assert [len(axes.containers) for axes in picture.axes] == [3, 3, 3]
    lines = [axes.containers[0].lines[0] for axes in picture.axes]
    assert [len(line.get_xdata()) for line in lines] == [9, 8, 8]
    assert lines[2].get_ydata()[[0, -1]].tolist() == [1, 0]


@pytest.mark.parametrize("row", ["", "3,0", "3,0,0,1,1", "3,0,0,1,1,one", "3,0,0,1,1,nan"])
def test_an_error_names_a_damaged_recovery(tmp_path, row):
    folder = write_run(tmp_path, HOPSUPSUP, 1, [0.9] * 3, [0.9] * 3, paths(3, 8))
    (folder / "recovery.csv").write_text(f"header\n{row}\n")
    with pytest.raises(UserError, match=r"recovery.csv is damaged"):
        figures.draw_paper(tables.read_runs([tmp_path]))


def test_the_papers_points_are_of_the_curves_in_its_figures():
    points = [point for curve in published.POINTS.values() for point in curve.values()]
    assert all(0 < point.accuracy < 100 for point in points)
    methods = ["upper_bound", "supsup_h", "supsup_g", "batche", "psp"]
    expected = [f"{folder}/{method}" for folder in (LENET, FC) for method in methods]
    expected += [f"{LONG}/{method}" for method in (*methods[:3], "lower_bound")]
    assert list(published.POINTS) == [f"{CIFAR}-lowerbound", *expected, "NNs/supsup", HOPSUPSUP]


@pytest.mark.parametrize(
    ("curve", "tasks", "text"),
    [
        (f"{LENET}/psp", 10, "94.80 ± 0.12"),
        (f"{LENET}/psp", 50, "≈ 83.5"),
        (f"{FC}/psp", 150, "< 88"),
        (f"{LONG}/lower_bound", 10, "72.20 ± 1.40"),
        (f"{LENET}/supsup_h", 250, "93.63"),
    ],
)
def test_the_text_of_a_point_shows_its_precision(curve, tasks, text):
    assert str(published.POINTS[curve][tasks]) == text


def test_the_ablation_has_a_panel_for_each_network(tmp_path):
    ablation = "GNu/MNISTPerm/ablation"
    for network in ("LeNet", "FC1024"):
        for outputs in (25, 100, 200):
            for objective in ("entropy", "superfluous"):
                settings = {"network": network, "features": outputs, "objective": objective}
                for seed in (1, 2):
                    write_run(tmp_path, ablation, seed, [0.9] * 5, [0.9 + seed / 1000] * 5, **settings)
    write_run(tmp_path, f"{LENET}/bounds", 1, [0.2] * 8, learned=[0.95] * 8, evaluate_at=(2, 5))
    runs = [newest for newest, *_ in tables.tries(tables.read_runs([tmp_path]))]
    assert len(runs) == 25
    picture = figures.draw_paper(runs)["figure6"]
    lenet, fc = picture.axes
    assert [axes.get_title() for axes in picture.axes] == ["LeNet 300-100", "FC 1024-1024"]
    assert len(fc.containers) == 6
    assert len(lenet.containers) == 7, "the upper bound is in the range of the axis, the lower bound far below"
    assert lenet.containers[-1].lines[0].get_xdata().tolist() == [2, 5]
    assert len(picture.legends[0].get_texts()) == 7

    narrow = figures.draw_paper([run for run in runs if run.name == ablation and run.variant[0] == "LeNet"])["figure6"]
    narrow.draw_without_rendering()
    title = narrow.texts[0].get_window_extent()
    assert len(narrow.axes) == 1 and title.x0 >= 0 and title.x1 <= narrow.bbox.x1
