import subprocess
import sys

import pytest
import yaml

from helpers import adapter
from helpers.figures import FC, HOPSUPSUP, LENET, colours, paths, write_run
from supsup_jax.__main__ import main
from supsup_jax.runs import results


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder, f"{LENET}/supsup_h", 0, [0.9] * 3, [0.9] * 3)
    write_run(folder, f"{LENET}/supsup_h", 0, [0.92] * 3, [0.92] * 3)
    write_run(folder, f"{LENET}/supsup_h", 1, [0.94] * 3, [0.94] * 3)
    write_run(folder, f"{FC}/batche", 1, [0.9] * 3, [0.5] * 3)
    write_run(folder, HOPSUPSUP, 1, [0.9] * 3, [0.9] * 3, paths(3, 8))
    write_run(folder, "quickstart", 1, [0.9] * 3, [0.9] * 3)
    return folder


def test_plot_writes_figures_into_the_current_folder_and_prints_paths(runs, tmp_path):
    # In a separate process, as users call it.
    command = [sys.executable, "-m", "supsup_jax", "plot", runs]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    newest = runs / LENET / "supsup_h/seed=0~try=1"
    assert result.stdout.splitlines() == [
        f"drawing {newest}, the newest of 2 runs of {LENET}/supsup_h, seed 0",
        "figure3.png",
        "recovery.png",
    ]
    assert result.stderr == ""
    assert {path.name for path in tmp_path.iterdir()} == {"figure3.png", "recovery.png"}
    assert all(len(colours(path)) > 50 for path in tmp_path.iterdir())


def test_plot_writes_into_a_new_folder_or_replaces_one_file(command, runs, tmp_path):
    (tmp_path / "figure.pdf").write_text("before")
    command("plot", runs / LENET, "--output", "figure.pdf")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    command("plot", runs / HOPSUPSUP, runs / FC, "--output", "new/folder")
    assert {path.name for path in (tmp_path / "new/folder").iterdir()} == {"figure3.png", "recovery.png"}


def test_bytes_counts_masks_as_bits_and_as_the_paper_does(command, runs):
    printed = command("bytes", runs / LENET / "supsup_h/seed=1")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    assert rows == [
        ["masks as bits", "8,250,000"],
        ["all", "8,250,000"],
        ["masks as sparse indices of 16 bits: two bytes per kept weight, as in the paper", "4,000,000"],
        ["all, with sparse masks", "4,000,000"],
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["plot"]),
        (["plto"], ["plto", "plot"]),
        (["plot"], ["plot requires at least one RUN"]),
        (["plot", ".", "--outptu", "x"], ["--outptu", "--output"]),
        (["bytes"], ["bytes requires at least one RUN"]),
        (["bytes", "nowhere"], ["nowhere is not a folder"]),
        (["run"], ["RUN", "(required)"]),
        (["run", "nowhere"], ["nowhere/settings.yaml does not contain the settings", "give the folder of a run"]),
        (["run", "RUNS/quickstart/seed=1"], ["settings.yaml does not contain the settings of a run"]),
        (["plot", "nowhere"], ["nowhere is not a folder"]),
        (["plot", "."], [". contains no evaluated run", "give the folder of a run"]),
        (["plot", "RUNS/quickstart"], ["no figure of the paper shows quickstart", "experiments/GNu", "accuracy.png"]),
        (["plot", "RUNS", "--output", "one.png"], ["one.png is one file for figure3, recovery", "give a folder"]),
        (["plot", "RUNS", "--output", "one.jpg"], ["one.jpg: must be", ".png, .pdf or .svg"]),
        (["plot", "RUNS", "--output", "a-file/below"], ["a-file"]),
    ],
)
def test_a_wrong_argument_gives_one_line_and_writes_nothing(command, runs, tmp_path, arguments, words):
    (tmp_path / "a-file").write_text("")
    error = command(*(argument.replace("RUNS", str(runs)) for argument in arguments), status=2)
    assert len(error.strip().splitlines()) == 1
    assert error.startswith("error: ")
    assert all(word in error for word in words), error
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_run_starts_or_resumes_the_run_in_a_folder(command, tmp_path):
    experiment = adapter.experiment(
        "q", "digits", num_tasks=2, steps=5, batch_size=32, width=0.1, eval_at=(1,), scenario="GG"
    )
    options = {"data": "nowhere", "tasks_at_once": 1}
    results.write_settings(
        tmp_path, {"experiment": adapter.plain(experiment), "options": options}, ["script.py", "--flag"]
    )
    for num_tasks in (2, 3):
        settings = results.read_settings(tmp_path)
        settings["experiment"]["num_tasks"] = num_tasks
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
        assert f"{num_tasks}/{num_tasks} tasks" in command("run", tmp_path)
        assert results.is_finished(tmp_path, [1, num_tasks])
        assert (tmp_path / "accuracy.png").exists()
        assert results.read_settings(tmp_path)["command"] == ["script.py", "--flag"]


def test_run_rejects_settings_that_do_not_exist(command, tmp_path):
    plain = adapter.plain(adapter.experiment("q", "digits")) | {"num_taks": 3}
    results.write_settings(tmp_path, {"experiment": plain, "options": {"data": "nowhere", "tasks_at_once": None}})
    error = command("run", tmp_path, status=2)
    assert "num_taks, which does not exist; did you mean num_tasks?" in error


@pytest.mark.parametrize("arguments", [["--help"], ["plot", "--help"]])
def test_help_lists_commands_and_their_options(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["supsup_jax", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert "usage: python -m supsup_jax" in printed
    assert "Draw the paper's figures" in printed
    assert ("RUN..." in printed and "--output" in printed) == (arguments[0] == "plot")
