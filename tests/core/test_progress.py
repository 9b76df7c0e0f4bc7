import time

from supsup_jax.system import progress
from supsup_jax.system.progress import Progress


def test_long_work_prints_its_progress_every_ten_seconds(monkeypatch, capsys):
    seconds = iter([0.0, 4.0, 11.0, 20.0, 22.0, 44.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    assert [*Progress("evaluating", 2000, "tasks", done=1000).track([100, 100, 200, 200, 400], int)][-1] == 400
    assert capsys.readouterr().err.splitlines() == [
        "evaluating: 1,200 of 2,000 tasks done, about 44 s left",
        "evaluating: 1,600 of 2,000 tasks done, about 15 s left",
    ]


def test_short_work_prints_nothing(capsys):
    assert [*Progress("evaluating", 3, "tasks").track(range(3))] == [0, 1, 2]
    assert not capsys.readouterr().err


def test_progress_lines_can_go_to_a_function(monkeypatch):
    lines = []
    monkeypatch.setattr(progress, "_INTERVAL", -1.0)
    counted = Progress("importing", 2, "tasks", say=lines.append)
    counted.add()
    counted.add()
    assert len(lines) == 1 and lines[0].startswith("importing: 1 of 2 tasks done")
