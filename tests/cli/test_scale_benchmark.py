import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import adapter
from helpers.runs import EXPERIMENT
from helpers.toys import small_dataset
from supsup_jax.runs.train import run_experiment

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DISK = {"share": 1 / 32, "picks": 2, "seconds": 0.1, "longest": 0.2, "bytes": 4e6, "right": 1.0}
ON_DISK = {"tasks": 64, "size": 4e7, "memory": 1e8, "rate": 1e9}
ON_DISK |= {"rows": [DISK | {"cache": "cold", "floor": 4e-3}, DISK | {"cache": "warm", "floor": None}]}


@pytest.fixture
def program(monkeypatch):
    """Import a program of benchmarks/."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.thorough
def test_searches_among_simulated_tasks_are_measured_and_drawn(program, tmp_path, monkeypatch, capsys):
    scale, curve = program("scale"), program("scale_curve")
    run_experiment(adapter.changed(EXPERIMENT, num_tasks=8, steps=2, eval_at=(8,)), small_dataset(), tmp_path)
    monkeypatch.setattr(program("peaks"), "sum_rate", lambda: 1e9)
    images = np.random.default_rng(0).random((8, 128, 4, 4, 1), np.float32)
    monkeypatch.setattr(scale, "images_of", lambda run, folder, tasks, count: images[:tasks, :count])
    arguments = ["scale", tmp_path, "--tested", 8, "--images", 1, "--shortlist", 2, "--child", 32]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    scale.main()
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {(row["at_once"], row["images"], row["search"]): row for row in measured["rows"]}
    one_shot, shortlist = rows[1, 1, "one_shot"], rows[1, 1, "shortlist"]
    assert measured["tasks"] == 32 and one_shot["picks"] == rows[1, 128, "shortlist"]["picks"] == 8
    assert rows[128, 1, "shortlist"]["picks"] == 8 * 128
    assert one_shot["floor"] == measured["bank"] / 1e9 > shortlist["floor"] > 0
    assert f"{one_shot['floor']:.3g} | " in scale.markdown([measured])

    names = [name for name, *_ in curve.points([measured, ON_DISK])]
    disk = [f"shortlist on disk, share 1/32, {cache} page cache" for cache in ("cold", "warm")]
    assert names == ["one_shot in memory", "shortlist in memory", *disk]


def test_results_of_several_calls_are_drawn_together(program, tmp_path, monkeypatch, capsys):
    scale, first, second = program("scale"), tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(json.dumps([ON_DISK]))
    second.write_text(json.dumps([ON_DISK | {"tasks": 640}]))
    drawn = ["scale", "--draw", str(first), str(second), "--output", str(tmp_path / "curve")]
    monkeypatch.setattr(sys, "argv", drawn)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    scale.main()
    assert "curve.png is not drawn" in capsys.readouterr().out and not (tmp_path / "curve.png").exists()
    monkeypatch.undo()
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.setattr(sys, "argv", drawn)
    scale.main()
    assert (tmp_path / "curve.png").stat().st_size > 10_000

    monkeypatch.setattr(sys, "argv", ["scale"])
    with pytest.raises(SystemExit):
        scale.main()
    assert "give the folder of a run, or --draw" in capsys.readouterr().err
