"""Figures do not depend on the user's Matplotlib settings, and never fail a run."""

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
USER_STYLE = {"text.usetex": True, "font.family": "no such font", "savefig.bbox": "tight", "axes.facecolor": "black"}


def test_a_users_matplotlibrc_does_not_change_a_figure(tmp_path):
    default, styled = tmp_path / "default.png", tmp_path / "styled.png"
    record = Record([], [evaluation(3)])
    figures.draw_accuracy(default, "x", 1, record)
    with matplotlib.rc_context(USER_STYLE):
        before = dict(matplotlib.rcParams)
        figures.draw_accuracy(styled, "x", 1, record)
        assert dict(matplotlib.rcParams) == before
    assert styled.read_bytes() == default.read_bytes()


def test_figures_of_the_paper_are_drawn_with_any_user_style(tmp_path):
    write_run(tmp_path, f"{LENET}/supsup_h", 0, [0.9] * 3, [0.9] * 3)
    write_run(tmp_path, f"{FC}/batche", 1, [0.9] * 3, [0.5] * 3)
    write_run(tmp_path, HOPSUPSUP, 1, [0.9] * 3, [0.9] * 3, paths(3, 8))
    with matplotlib.rc_context(USER_STYLE):
        for name, picture in figures.draw_paper(tables.read_runs([tmp_path])).items():
            figures.save(picture, tmp_path / f"{name}.png")
    assert (tmp_path / "figure3.png").exists() and (tmp_path / "recovery.png").exists()


@pytest.mark.parametrize("error", [RuntimeError("latex was\nnot found"), OSError(28, "No space left"), UserError("no")])
def test_a_drawing_error_is_one_warning_and_the_caller_continues(capsys, error):
    with drawing.optional("accuracy.png", "draw it with --resume"):
        raise error
    warning = capsys.readouterr().err
    assert warning.startswith("warning: accuracy.png was not drawn: ") and warning.count("\n") == 1
    assert warning.endswith("; draw it with --resume\n")


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"requires matplotlib \(.*\); install with: pip install 'supsup_jax\[plots\]'"):
        figures.draw_paper([])


def test_a_matplotlib_that_cannot_be_imported_raises_one_line(monkeypatch):
    monkeypatch.setattr(extras.importlib, "import_module", lambda name: 1 / 0)
    with pytest.raises(UserError, match=r"matplotlib, which cannot be imported; repair its installation, matplotlibrc"):
        figures.draw_paper([])


@pytest.fixture
def run(monkeypatch, tmp_path):
    """An experiment with one task, the folder of its run, and a function that starts or resumes the run."""
    experiment = adapter.experiment("x", "digits", num_tasks=1, steps=1, width=0.1, scenario="GG")
    folder = tmp_path / "run"
    folder.mkdir()
    write_settings(folder, experiment, data.load_digits(), {"data": "nowhere", "tasks_at_once": 1})
    return experiment, folder, lambda: launch.run(folder)


def test_a_failed_figure_does_not_fail_the_run_and_resume_draws_it(run, monkeypatch, capsys):
    experiment, folder, resume = run
    with monkeypatch.context() as broken:
        broken.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: 1 / 0)
        resume()
    printed = capsys.readouterr()
    assert "warning: " in printed.err and f"supsup_jax run {folder}" in printed.err
    assert "accuracies in %" in printed.out and not (folder / "accuracy.png").exists()
    resume()
    assert (folder / "accuracy.png").exists()

    (folder / "accuracy.png").unlink()
    launch._draw_missing([experiment], [Member(folder, experiment.evaluations)])
    assert (folder / "accuracy.png").exists()


def test_without_the_extras_a_run_first_lists_what_it_will_not_write(run, monkeypatch, capsys):
    _, folder, resume = run
    for module in ("matplotlib", "tensorboardX"):
        monkeypatch.setitem(sys.modules, module, None)
    resume()
    printed = capsys.readouterr()
    assert printed.err == (
        "pictures and TensorBoard events will not be written; to have them: "
        "pip install 'supsup_jax[plots,tensorboard]'\n"
    )
    assert "accuracies in %" in printed.out
    assert not list(folder.glob("*.png")) and not list(folder.glob("events*"))


def test_with_a_wrong_backend_nothing_is_drawn_and_one_line_says_so(tmp_path):
    code = "from supsup_jax.paper import drawing, figures\n"
    code += "with drawing.optional('accuracy.png', 'later'): figures.draw_paper([])"
    environment = os.environ | {"MPLBACKEND": "nonsense", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("\n") == 1 and "MPLBACKEND" in result.stderr
