"""Pictures do not depend on the user's Matplotlib, and never fail a run."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from helpers import adapter
from helpers.figures import FC, HOPSUPSUP, LENET, paths, write_run
from helpers.runs import evaluation
from supsup_jax import UserError, data
from supsup_jax.cli import launch
from supsup_jax.cli.sweep import Member
from supsup_jax.paper import drawing, figures
from supsup_jax.runs import tables
from supsup_jax.runs.records import Record
from supsup_jax.runs.settings import write_run as write_settings
from supsup_jax.system import extras

ROOT = Path(__file__).parents[2]
WISHES = {"text.usetex": True, "font.family": "no such font", "savefig.bbox": "tight", "axes.facecolor": "black"}


def test_a_users_matplotlibrc_does_not_change_a_picture(tmp_path):
    usual, wished = tmp_path / "usual.png", tmp_path / "wished.png"
    record = Record([], [evaluation(3)])
    figures.draw_accuracy(usual, "x", 1, record)
    with matplotlib.rc_context(WISHES):
        before = dict(matplotlib.rcParams)
        figures.draw_accuracy(wished, "x", 1, record)
        assert dict(matplotlib.rcParams) == before
    assert wished.read_bytes() == usual.read_bytes()


def test_figures_of_the_paper_are_drawn_whatever_the_style(tmp_path):
    write_run(tmp_path, f"{LENET}/supsup_h", 0, [0.9] * 3, [0.9] * 3)
    write_run(tmp_path, f"{FC}/batche", 1, [0.9] * 3, [0.5] * 3)
    write_run(tmp_path, HOPSUPSUP, 1, [0.9] * 3, [0.9] * 3, paths(3, 8))
    with matplotlib.rc_context(WISHES):
        for name, picture in figures.draw_paper(tables.read_runs([tmp_path])).items():
            figures.save(picture, tmp_path / f"{name}.png")
    assert (tmp_path / "figure3.png").exists() and (tmp_path / "recovery.png").exists()


@pytest.mark.parametrize("error", [RuntimeError("latex was\nnot found"), OSError(28, "No space left"), UserError("no")])
def test_a_picture_that_fails_is_a_line_and_the_caller_continues(capsys, error):
    with drawing.optional("accuracy.png", "draw it with --resume"):
        raise error
    said = capsys.readouterr().err
    assert said.startswith("warning: accuracy.png was not drawn: ") and said.count("\n") == 1
    assert said.endswith("; draw it with --resume\n")


def test_without_matplotlib_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"requires matplotlib \(.*\); install with: pip install 'supsup_jax\[plots\]'"):
        figures.draw_paper([])


def test_a_matplotlib_that_cannot_start_is_one_line(monkeypatch):
    monkeypatch.setattr(extras.importlib, "import_module", lambda name: 1 / 0)
    with pytest.raises(UserError, match="Matplotlib cannot be imported; repair"):
        figures.draw_paper([])


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A run of one task that is learned or resumed, with its folder."""
    experiment = adapter.experiment("x", "digits", num_tasks=1, steps=1, width=0.1, scenario="GG")
    folder = tmp_path / "run"
    folder.mkdir()
    write_settings(folder, experiment, data.load_digits(), {"data": "nowhere", "tasks_at_once": 1})
    return experiment, folder, lambda: launch.run(folder)


def test_a_run_whose_picture_fails_is_finished_and_resuming_draws_it(run, monkeypatch, capsys):
    experiment, folder, resume = run
    with monkeypatch.context() as broken:
        broken.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: 1 / 0)
        resume()
    said = capsys.readouterr()
    assert "warning: " in said.err and f"supsup_jax run {folder}" in said.err
    assert "accuracies in %" in said.out and not (folder / "accuracy.png").exists()
    resume()
    assert (folder / "accuracy.png").exists()

    (folder / "accuracy.png").unlink()
    launch._draw_missing([experiment], [Member(folder, experiment.evaluations)])
    assert (folder / "accuracy.png").exists()


def test_a_run_without_the_extras_says_first_what_it_will_not_write(run, monkeypatch, capsys):
    _, folder, resume = run
    for module in ("matplotlib", "tensorboardX"):
        monkeypatch.setitem(sys.modules, module, None)
    resume()
    said = capsys.readouterr()
    assert said.err == (
        "pictures and TensorBoard events will not be written; to have them: "
        "pip install 'supsup_jax[plots,tensorboard]'\n"
    )
    assert "accuracies in %" in said.out
    assert not list(folder.glob("*.png")) and not list(folder.glob("events*"))


def test_a_process_with_a_broken_backend_draws_nothing_and_says_so(tmp_path):
    code = "from supsup_jax.paper import drawing, figures\n"
    code += "with drawing.optional('accuracy.png', 'later'): figures.draw_paper([])"
    environment = os.environ | {"MPLBACKEND": "nonsense", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("\n") == 1 and "MPLBACKEND" in result.stderr
