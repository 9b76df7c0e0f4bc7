import json
from pathlib import Path

import pytest
from test_commands import command  # noqa: F401 - a fixture
from test_figures import HOPSUPSUP, LENET, write_run

from supsup_jax import published, results
from supsup_jax.reproduction import numbers


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
    write_run(folder, f"{LENET}/lower_bound", 1, [0.7] * 3)
    write_run(folder, HOPSUPSUP, 1, [0.99] * 5, [0.95] * 5, method="HopSupSup")
    return folder


def test_without_runs_every_number_of_the_paper_is_said_not_to_have_been_run(command, tmp_path):  # noqa: F811
    assert command("reproduce", "--output", "table.md") == "table.md\n"
    told = rows((tmp_path / "table.md").read_text())
    assert [row[4] for row in told] == ["not run"] * len(numbers())
    assert ["rn50-supsup --sparsity 16", "100", "89.58", "195.18", "not run"] in [row[:5] for row in told]
    assert ["rn18-lowerbound", "20", "24.50", "", "not run"] in [row[:5] for row in told]
    assert ["supsup", "2,500", "92.54 ± 0.42", "", "not run"] in [row[:5] for row in told]
    assert ["psp", "50", "< 88", "", "not run"] in [row[:5] for row in told]
    given = sum(len(points) for points in (published.IN_TEXT | published.ACCURACIES | published.MEMORY).values())
    assert len(told) == given + len(published.BELOW) + len(published.SPLITIMAGENET_TABLE)


def test_runs_stand_beside_the_paper_with_all_that_it_takes_to_repeat_them(command, runs):  # noqa: F811
    said = json.loads(command("reproduce", runs, "--json"))["markdown"]
    about = results.read_settings(runs / LENET / "supsup_h/seed=1")
    machine = f"CPU, {about['cores']} cores, JAX {about['versions']['jax']}"
    told = {(row[0], row[1], row[4]): row for row in rows(said)}
    ours = told["supsup_h", "10", "91.00 ± 1.41"]
    # Two evaluations of a second each, after a second of training.
    assert ours[2:5] == ["93.67", "", "91.00 ± 1.41"]
    assert ours[5] == "8.25"
    assert ours[6:9] == ["2: 0, 1", "3 s", machine]
    assert ours[9].split()[0] == (about["git_commit"] or "")[:10]
    assert ours[10] == "python experiments/s.py --data ~/data --num-tasks 10"
    assert told["supsup_h", "10", "30.00"][6] == "0", "runs of other settings have rows of their own"
    assert told["hopsupsup", "5", "95.00"][2] == "97.43"
    assert told["lower_bound", "3", "70.00"][2] == ""
    assert ["supsup_h", "50", "93.68", "", "not run"] in [row[:5] for row in rows(said)]


def test_the_table_of_the_project_has_every_number_of_the_paper(command, tmp_path):  # noqa: F811
    table = (Path(__file__).parents[1] / "REPRODUCE.md").read_text()
    command("reproduce", "--output", "table.md")
    expected = [row[:4] for row in rows((tmp_path / "table.md").read_text())]
    assert [row for row in expected if row not in [row[:4] for row in rows(table)]] == []
    assert table.splitlines()[0] == (tmp_path / "table.md").read_text().splitlines()[0]


def test_a_run_whose_metrics_are_damaged_is_named(command, runs):  # noqa: F811
    (runs / HOPSUPSUP / "seed=1/metrics.jsonl").write_text("{")
    assert "metrics.jsonl is damaged" in command("reproduce", runs, status=2)
