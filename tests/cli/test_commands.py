import csv
import io
import json
import shutil
import sys
from pathlib import Path

import jax.export
import numpy as np
import pytest
from PIL import Image

import supsup_jax as ss
from supsup_jax import data
from supsup_jax.__main__ import main
from supsup_jax.cli import advice, collection, launch
from supsup_jax.cli.commands import COMMANDS
from supsup_jax.data import pictures

RUN = Path(__file__).parents[1] / "stored/format-2-SupSup"
IMAGES = data.load_digits().test.images[:6]


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def test_show_prints_a_summary_of_a_run(command, run):
    printed = command("show", run)
    for words in ("SupSup", "LeNet", "8 x 8 x 1", "3; at most 10 classes", "53.39 %", "dense0 49.69 %", "1,103"):
        assert words in printed
    plain = json.loads(command("show", run, "--json"))
    assert plain["tasks"] == 3
    assert plain["bytes"] == {**ss.restore(run).account(), "all": 1103}
    assert plain["densities"]["dense2"] == pytest.approx(0.5167, abs=1e-4)
    assert plain["learned"]["accuracy"] == pytest.approx([0.621, 0.482, 0.499], abs=1e-3)


def test_evaluate_measures_given_and_inferred_tasks(command, run, tmp_path):
    printed = command("evaluate", run, "--task", "inferred", "--output", "out.csv")
    assert "53.39" not in printed and "62.12" in printed
    with (tmp_path / "out.csv").open() as file:
        _, *rows = csv.reader(file)
    assert [row[0] for row in rows] == ["0", "1", "2"]
    inferred = ["--task", "inferred", "--search", "exhaustive", "--images-per-pick", 8, "--json"]
    tried = json.loads(command("evaluate", run, *inferred))
    expected = ss.evaluate(ss.restore(run), task="inferred", search="exhaustive", images_per_pick=8)
    assert tried["picked"] == pytest.approx(expected.picked)
    plain = json.loads(command("evaluate", run, "--tasks", "1:3", "--json"))
    assert plain["tasks"] == [1, 2]
    assert plain["matrix"][-1] == [None, *plain["accuracy"]]


def test_advice_after_an_evaluation_is_about_its_search(command, run, monkeypatch):
    used = []
    monkeypatch.setattr(advice, "on_inference", lambda *arguments: used.extend(arguments[-2:]) or "some advice")
    inferred = ["--task", "inferred", "--search", "exhaustive", "--images-per-pick", 8]
    assert "some advice" in command("evaluate", run, *inferred)
    assert isinstance(used[0], ss.Exhaustive) and used[1] == 8
    assert "some advice" not in command("evaluate", run, *inferred, "--json")


def test_settings_of_a_search_are_those_of_the_object(command, run, tmp_path):
    search = ["--search", "shortlist", "--search-settings", "shortlist=1", "share=0.5"]
    printed = command("evaluate", run, "--task", "inferred", *search, "checked_picks=2", "--output", "out.csv")
    assert "0 of 6 checked picks differ from the exact search" in printed
    columns = "Checked Picks,Picks That Differ From Exact Search"
    header, *rows = (tmp_path / "out.csv").read_text().splitlines()
    assert header.endswith(columns) and [row.rsplit(",", 2)[1:] for row in rows] == [["2", "0"]] * 3
    np.save("images.npy", IMAGES)
    expected = ss.restore(run).predict(IMAGES, search=ss.Shortlist(shortlist=1, share=0.5))
    plain = json.loads(command("predict", run, "images.npy", *search, "--json"))
    assert plain["tasks"] == expected.tasks.tolist()


def test_predictions_of_arrays_and_pictures_are_equal(command, run, tmp_path):
    np.save("images.npy", IMAGES)
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(image[..., 0]).save(tmp_path / f"pictures/{number}.png")
    expected = ss.restore(run).predict(IMAGES)
    for images in ("images.npy", "pictures"):
        header, *rows = csv.reader(io.StringIO(command("predict", run, images)))
        assert header == ["Image", "Label", "Task", "Probability"]
        assert [int(row[1]) for row in rows] == expected.labels.tolist()
        assert [int(row[2]) for row in rows] == expected.tasks.tolist()
    assert rows[3][0] == "3.png"
    assert command("predict", run, "pictures/2.png", "--task", 1, "--output", "out.csv") == "out.csv\n"
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("2.png,")
    plain = json.loads(command("predict", run, "images.npy", "--search", "binary", "--json"))
    assert np.shape(plain["probabilities"]) == (6, 10)


def test_calibrated_runs_reject_images(command, run):
    plain = json.loads(command("calibrate", run, "--images", 40, "--json"))
    assert (plain["search"], plain["objective"], plain["images"]) == ("one_shot", "entropy", 120)
    assert plain["calibration_error"]["after"] < plain["calibration_error"]["before"]
    assert sum(plain["reliability"]["count"]) == 120 and 0 <= plain["rejected"] < 0.2
    printed = command("calibrate", run, "--images", 40, "--search", "exhaustive")
    for words in (
        "on 120 test images (search exhaustive, objective entropy)",
        "expected calibration error: 0.",
        "to 1",
    ):
        assert words in printed
    np.save("images.npy", IMAGES)
    expected = ss.restore(run).predict(IMAGES, reject=0.5)
    _, *rows = csv.reader(io.StringIO(command("predict", run, "images.npy", "--reject", 0.5)))
    assert [int(row[2]) for row in rows] == expected.tasks.tolist()
    assert all(row[1:] == ["-1", "-1", "0.0000"] for row in rows if row[2] == "-1")
    assert "--reject 0.001: needs a calibration with at least 999" in command(
        "predict", run, "images.npy", "--reject", 0.001, status=2
    )


def test_pictures_of_a_different_size_are_resized_on_request(command, run, tmp_path):
    large = Image.fromarray(np.kron(IMAGES[0][..., 0], np.ones((3, 3), np.uint8)))
    wide = Image.new("RGB", (40, 24))
    wide.paste(large, (8, 0))
    wide.save(tmp_path / "wide.png")
    assert "40 x 24 pixels; the network expects 8 x 8: resize it" in command("predict", run, "wide.png", status=2)
    assert command("predict", run, "wide.png", "--resize").count("\n") == 2
    _, (reduced,) = pictures.read(tmp_path / "wide.png", ss.restore(run).inputs, shorter_side=8)
    assert np.corrcoef(reduced.ravel(), IMAGES[0].ravel())[0, 1] > 0.7


def test_export_writes_a_program(command, run, tmp_path):
    assert json.loads(command("export", run, "program.bin", "--task", 2, "--json")) == {"written": "program.bin"}
    program = jax.export.deserialize(bytearray((tmp_path / "program.bin").read_bytes()))
    classes, _, _ = program.call(IMAGES)
    np.testing.assert_array_equal(classes, ss.restore(run).predict(IMAGES, task=2).labels)


def test_version_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["supsup-jax", "--version"])
    main()
    assert capsys.readouterr().out == f"supsup_jax {ss.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_text(command, name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        monkeypatch.setattr(sys, "argv", ["supsup_jax", name, "--help"])
        main()
    assert not ended.value.code
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "nowhere"], ["nowhere does not contain a run's checkpoints", "give the folder of one run"]),
        (["show", "begun"], ["begun has no checkpoint yet", "python -m supsup_jax run begun"]),
        (["shwo", "RUN"], ["Unrecognized options: shwo", "; available subcommands: bytes, ", "lists all options"]),
        (["predict", "RUN", "nothing.npy"], ["nothing.npy does not exist"]),
        (["predict", "RUN", "cut.npy"], ["cut.npy is not a NumPy file"]),
        (["predict", "RUN", "objects.npy"], ["objects.npy is not a NumPy file"]),
        (["predict", "RUN", "cut.png"], ["cut.png cannot be read"]),
        (["predict", "RUN", "empty"], ["empty holds no pictures"]),
        (["predict", "RUN", "text.txt"], ["text.txt is not a .npy file, a picture"]),
        (["predict", "RUN", "good.npy", "--task", 3], ["there is no task 3", "0 to 2"]),
        (["predict", "RUN", "good.npy", "--output", "no/where.csv"], ["no/"]),
        (["predict", "RUN", "good.npy", "--reject", 0.05], ["--reject 0.05: needs a calibration of search one_shot"]),
        (["predict", "RUN", "good.npy", "--reject", 5], ["--reject 5: must be a fraction above 0 and below 1"]),
        (
            ["predict", "RUN", "good.npy", "--reject", 0.1, "--task", 1],
            ["--reject 0.1: requires that tasks are inferred"],
        ),
        (["calibrate", "RUN", "--images", 0], ["--images 0: must be at least 1"]),
        (["evaluate", "RUN", "--tasks", "1:9"], ["task 3 cannot be evaluated", "0 to 2"]),
        (["evaluate", "RUN", "--tasks", "all"], ["--tasks all: must be FIRST:STOP"]),
        (["evaluate", "RUN", "--task", "guessed"], ["guessed", "given"]),
        (["evaluate", "RUN", "--search", "binary"], ["--search 'binary': applies to tasks that a search infers"]),
        (
            ["evaluate", "RUN", "--task", "inferred", "--search", "shortlist", "--search-settings", "share=2"],
            ["--search-settings share=2: must be at most 1"],
        ),
        (
            ["evaluate", "RUN", "--task", "inferred", "--search-settings", "share=0.5"],
            ["search one_shot has no setting share; it has no settings"],
        ),
        (
            ["evaluate", "RUN", "--task", "inferred", "--search", "binary", "--search-settings", "base=two"],
            ["--search-settings base=two: has type str; give an integer"],
        ),
        (["evaluate", "RUN", "--search-settings", "share"], ["--search-settings share: must be name=value"]),
        (["evaluate", "RUN", "--task", "inferred", "--images-per-pick", 0], ["--images-per-pick 0: must be from 1"]),
        (["predict", "RUN", "deep.png"], ["deep.png cannot be read", "expected 8 bits per channel"]),
        (["import-torch", "RUN", "new", "--set", "network"], ["--set network: must be name=value"]),
        (["import-torch", "RUN", "new", "--set", "num_tasks=[1"], ["--set num_tasks=[1: the value is not valid YAML"]),
    ],
)
def test_a_wrong_argument_gives_one_line_and_writes_nothing(command, run, tmp_path, arguments, words):
    np.save("good.npy", IMAGES)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:90])
    np.save("objects.npy", np.array([{}, 1], object), allow_pickle=True)
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/settings.yaml").write_text("experiment: {}")
    (tmp_path / "text.txt").write_text("text")
    before = {path for path in tmp_path.rglob("*")}
    error = command(*[run if word == "RUN" else word for word in arguments], status=2)
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert {path for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("flags", [[], ["--no-evaluate"]])
def test_collected_runs_are_evaluated_unless_the_user_declines(flags, command, run, tmp_path, monkeypatch):
    evaluated = []
    monkeypatch.setattr(collection, "groups", lambda folders: [folders])
    monkeypatch.setattr(collection, "collect", lambda runs, data: tmp_path / "collected")
    monkeypatch.setattr(launch, "run", lambda folder, data: evaluated.append(folder))
    printed = command("collect", run, *flags)
    assert evaluated == ([] if flags else [tmp_path / "collected"])
    assert printed.strip() == (str(tmp_path / "collected") if flags else "")
