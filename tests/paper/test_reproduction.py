import json
import os
from pathlib import Path

import pytest

from helpers.figures import HOPSUPSUP, LENET, write_run
from supsup_jax.paper import differences, published, scripts
from supsup_jax.paper.reproduction import numbers
from supsup_jax.runs import results


def rows(markdown):
    """Return the cells of every row except the headers, without backticks."""
    lines = [line.strip("| ").replace("`", "") for line in markdown.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs of SupSup (two seeds, an older run of one, one with other settings), of HopSupSup, and of the bounds."""
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
    table = [row[:5] for row in rows((tmp_path / "table.md").read_text())]
    assert [row[4] for row in table] == ["not run"] * len(numbers())
    assert ["rn50-supsup --sparsity 16", "100", "89.58, printed", "195.18", "not run"] in table
    assert ["rn18-lowerbound", "20", "24.50, printed", "", "not run"] in table
    assert ["supsup", "2,500", "92.54 ± 0.42", "", "not run"] in table
    assert ["psp", "50", "≈ 83.5", "", "not run"] in table
    assert ["psp", "150", "< 88", "", "not run"] in table
    num_points = sum(len(points) for points in published.POINTS.values())
    assert len(table) == num_points + len(published.SPLITIMAGENET_TABLE)


def test_rows_have_numbers_of_paper_and_runs_and_the_command(command, runs):
    markdown = json.loads(command("reproduce", runs, "--json"))["markdown"]
    about = results.read_settings(runs / LENET / "supsup_h/seed=1")
    machine = f"CPU, {about['cores']} core{'' if about['cores'] == 1 else 's'}, JAX {about['versions']['jax']}"
    table = {(row[0], row[1], row[4]): row for row in rows(markdown)}
    ours = table["supsup_h", "10", "91.00 ± 1.41"]
    # One second of training, and two evaluations of one second each.
    assert ours[2:6] == ["93.67", "", "91.00 ± 1.41", "**differs by -2.67**"]
    assert ours[6] == "8.25"
    assert ours[7:10] == ["2: 0, 1", "3 s", machine]
    assert ours[10].split()[0] == (about["git_commit"] or "")[:10]
    assert ours[11] == "python experiments/s.py --data ~/data --num-tasks 10"
    assert table["hopsupsup", "5", "95.00"][2] == "97.43, printed"
    assert ["supsup_h", "50", "93.68", "", "not run"] in [row[:5] for row in rows(markdown)]


def test_both_bounds_come_from_one_run_and_none_from_version_01(command, runs):
    markdown = json.loads(command("reproduce", runs, "--json"))["markdown"]
    table = {(row[0], row[1]): row for row in rows(markdown) if row[4] != "not run"}
    assert table["upper_bound", "10"][2:6] == ["94.94", "", "94.94", "yes"]
    assert table["lower_bound", "10"][2:6] == ["", "", "70.00", ""]
    assert ("upper_bound", "3") not in table
    assert f"trained the bounds differently: runs of `{LENET}/upper_bound`." in markdown


def test_runs_with_other_settings_have_separate_rows_without_comparison(command, tmp_path):
    write_run(tmp_path, f"{LENET}/batche", 1, [0.88] * 10, features=100, random_weights=True, eval_at=[10])
    (row,) = [row for row in rows(command("reproduce", tmp_path)) if row[4] != "not run"]
    assert row[:6] == ["batche --features 100 --random-weights", "10", "88.86", "", "88.00", ""]
    assert ["batche", "10", "88.86", "", "not run"] in [row[:5] for row in rows(command("reproduce", tmp_path))]


def test_without_scripts_the_newest_run_has_the_expected_settings(command, tmp_path, monkeypatch):
    monkeypatch.setattr(scripts, "FOLDER", tmp_path / "nowhere")
    scripts.script_of.cache_clear()
    write_run(tmp_path, f"{LENET}/batche", 1, [0.88] * 10, steps=10)
    os.utime(tmp_path / LENET / "batche/seed=1/accuracy_matrix.csv", (0, 0))
    write_run(tmp_path, f"{LENET}/batche", 2, [0.8886] * 10, steps=9)
    table = [row[:6] for row in rows(command("reproduce", tmp_path)) if row[4] != "not run"]
    scripts.script_of.cache_clear()
    assert table == [
        ["batche", "10", "88.86", "", "88.86", "yes"],
        ["batche --steps 10", "10", "88.86", "", "88.00", ""],
    ]


def test_differences_are_explained_or_marked_unexplained(command, tmp_path, monkeypatch):
    write_run(tmp_path, f"{LENET}/batche", 1, [0.8] * 250, evaluate_at=(10, 50, 100, 200))
    sentence = "the test has written 80.00."
    monkeypatch.setattr(differences, "SENTENCES", {(f"{LENET}/batche", range(50, 101)): sentence})
    markdown = command("reproduce", tmp_path)
    assert "- `batche` after 10, 200, 250 tasks: unexplained" in markdown
    assert f"- `batche` after 50, 100 tasks: {sentence}" in markdown
    assert markdown.count("Differences from the paper:") == 1


def test_reproduce_md_has_every_number_of_the_paper(command, tmp_path):
    table = (Path(__file__).parents[2] / "REPRODUCE.md").read_text()
    command("reproduce", "--output", "table.md")
    expected = [row[:4] for row in rows((tmp_path / "table.md").read_text())]
    assert [row for row in expected if row not in [row[:4] for row in rows(table)]] == []
    assert table.splitlines()[0] == (tmp_path / "table.md").read_text().splitlines()[0]


def test_an_error_names_a_run_with_damaged_metrics(command, runs):
    (runs / HOPSUPSUP / "seed=1/metrics.jsonl").write_text("{")
    assert "metrics.jsonl is damaged" in command("reproduce", runs, status=2)
