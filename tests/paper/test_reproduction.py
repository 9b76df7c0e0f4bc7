import json
import os
from pathlib import Path

import pytest

from helpers.figures import HOPSUPSUP, LENET, write_run
from supsup_jax.paper import differences, published, scripts
from supsup_jax.paper.reproduction import numbers
from supsup_jax.runs import results


def rows(markdown):
    """The cells of every row but the headers, without the marks of code."""
    lines = [line.strip("| ").replace("`", "") for line in markdown.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two seeds of SupSup and an older try of one, HopSupSup, and a method of which the paper has no number."""
    monkeypatch.setattr("sys.argv", ["/somewhere/experiments/s.py", "--data", "/there", "--num-tasks", "10"])
    folder = tmp_path / "runs"
    for seed, accuracy in ((0, 0.5), (0, 0.9), (1, 0.92)):
        write_run(folder, f"{LENET}/supsup_h", seed, [0.99] * 10, [accuracy] * 10)
    write_run(folder, f"{LENET}/supsup_h", 0, [0.99] * 10, [0.3] * 10, width=0.5)
    write_run(folder, f"{LENET}/bounds", 1, [0.7] * 10, learned=[0.9494] * 10)
    write_run(folder, f"{LENET}/upper_bound", 1, [0.7] * 3)
    write_run(folder, HOPSUPSUP, 1, [0.99] * 5, [0.95] * 5, method="HopSupSup")
    return folder


def test_without_runs_every_number_of_the_paper_is_not_run(command, tmp_path):
    assert command("reproduce", "--output", "table.md") == "table.md\n"
    told = rows((tmp_path / "table.md").read_text())
    assert [row[4] for row in told] == ["not run"] * len(numbers())
    assert ["rn50-supsup --sparsity 16", "100", "89.58", "195.18", "not run"] in [row[:5] for row in told]
    assert ["rn18-lowerbound", "20", "24.50", "", "not run"] in [row[:5] for row in told]
    assert ["supsup", "2,500", "92.54 ± 0.42", "", "not run"] in [row[:5] for row in told]
    assert ["psp", "50", "≈ 83.5", "", "not run"] in [row[:5] for row in told]
    assert ["psp", "150", "< 88", "", "not run"] in [row[:5] for row in told]
    given = sum(len(points) for points in published.POINTS.values())
    assert len(told) == given + len(published.SPLITIMAGENET_TABLE)


def test_runs_stand_beside_the_paper_with_how_to_repeat_them(command, runs):
    said = json.loads(command("reproduce", runs, "--json"))["markdown"]
    about = results.read_settings(runs / LENET / "supsup_h/seed=1")
    machine = f"CPU, {about['cores']} cores, JAX {about['versions']['jax']}"
    told = {(row[0], row[1], row[4]): row for row in rows(said)}
    ours = told["supsup_h", "10", "91.00 ± 1.41"]
    # Two evaluations of a second each, after a second of training.
    assert ours[2:6] == ["93.67", "", "91.00 ± 1.41", "**differs by -2.67**"]
    assert ours[6] == "8.25"
    assert ours[7:10] == ["2: 0, 1", "3 s", machine]
    assert ours[10].split()[0] == (about["git_commit"] or "")[:10]
    assert ours[11] == "python experiments/s.py --data ~/data --num-tasks 10"
    assert told["hopsupsup", "5", "95.00"][2] == "97.43"
    assert ["supsup_h", "50", "93.68", "", "not run"] in [row[:5] for row in rows(said)]


def test_both_bounds_come_from_one_run_and_none_from_version_01(command, runs):
    said = json.loads(command("reproduce", runs, "--json"))["markdown"]
    told = {(row[0], row[1]): row for row in rows(said) if row[4] != "not run"}
    assert told["upper_bound", "10"][2:6] == ["94.94", "", "94.94", "yes"]
    assert told["lower_bound", "10"][2:6] == ["", "", "70.00", ""]
    assert ("upper_bound", "3") not in told
    assert f"trained the bounds differently: runs of `{LENET}/upper_bound`." in said


def test_runs_of_other_settings_have_rows_of_their_own_without_a_verdict(command, tmp_path):
    write_run(tmp_path, f"{LENET}/batche", 1, [0.88] * 10, features=100, random_weights=True, eval_at=[10])
    (row,) = [row for row in rows(command("reproduce", tmp_path)) if row[4] != "not run"]
    assert row[:6] == ["batche --features 100 --random-weights", "10", "88.86", "", "88.00", ""]
    assert ["batche", "10", "88.86", "", "not run"] in [row[:5] for row in rows(command("reproduce", tmp_path))]


def test_without_scripts_the_newest_run_says_which_settings_count(command, tmp_path, monkeypatch):
    monkeypatch.setattr(scripts, "FOLDER", tmp_path / "nowhere")
    scripts.script_of.cache_clear()
    write_run(tmp_path, f"{LENET}/batche", 1, [0.88] * 10, steps=10)
    os.utime(tmp_path / LENET / "batche/seed=1/accuracy_matrix.csv", (0, 0))
    write_run(tmp_path, f"{LENET}/batche", 2, [0.8886] * 10, steps=9)
    told = [row[:6] for row in rows(command("reproduce", tmp_path)) if row[4] != "not run"]
    scripts.script_of.cache_clear()
    assert told == [
        ["batche", "10", "88.86", "", "88.86", "yes"],
        ["batche --steps 10", "10", "88.86", "", "88.00", ""],
    ]


def test_what_differs_is_explained_or_said_to_be_unexplained(command, tmp_path, monkeypatch):
    write_run(tmp_path, f"{LENET}/batche", 1, [0.8] * 250, evaluate_at=(10, 50, 100, 200))
    sentence = "80.00 is what the test has written."
    monkeypatch.setattr(differences, "SENTENCES", {(f"{LENET}/batche", range(50, 101)): sentence})
    said = command("reproduce", tmp_path)
    assert "- `batche` after 10, 200, 250 tasks: unexplained" in said
    assert f"- `batche` after 50, 100 tasks: {sentence}" in said
    assert said.count("What differs from the paper:") == 1


def test_the_table_of_the_project_has_every_number_of_the_paper(command, tmp_path):
    table = (Path(__file__).parents[2] / "REPRODUCE.md").read_text()
    command("reproduce", "--output", "table.md")
    expected = [row[:4] for row in rows((tmp_path / "table.md").read_text())]
    assert [row for row in expected if row not in [row[:4] for row in rows(table)]] == []
    assert table.splitlines()[0] == (tmp_path / "table.md").read_text().splitlines()[0]


def test_a_run_whose_metrics_are_damaged_is_named(command, runs):
    (runs / HOPSUPSUP / "seed=1/metrics.jsonl").write_text("{")
    assert "metrics.jsonl is damaged" in command("reproduce", runs, status=2)
