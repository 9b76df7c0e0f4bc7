from pathlib import Path

import pytest

from helpers.figures import HOPSUPSUP, LENET, paths, write_run
from supsup_jax.paper import keeping
from supsup_jax.runs import results, tables

BATCHE = f"{LENET}/batche"


@pytest.fixture(autouse=True)
def started(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/experiments/s.py", "--data", "/there", "--num-tasks", "10"])


def evaluated(folder):
    """Return the numbers of tasks at which the runs in a folder were evaluated, by their folders below it."""
    found = {str(run.folder.relative_to(folder)): [*run.accuracies["given"]] for run in tables.find_runs(Path(folder))}
    return dict(sorted(found.items()))


def test_copies_give_the_same_rows_and_name_no_folder_of_the_machine(command, tmp_path):
    runs = tmp_path / "runs"
    for seed in (0, 1):
        write_run(runs, BATCHE, seed, [0.88 + seed / 100] * 10)
    write_run(runs, HOPSUPSUP, 1, [0.99] * 5, [0.95] * 5, paths(5, 3), method="HopSupSup")
    write_run(runs, "GG/CIFAR100-10-tasks/piggyback", 0, [0.7] * 9, base_weights="/there/trained.msgpack")
    command("reproduce", runs, "--keep", "kept")
    assert command("plot", "kept", "--output", "pictures") == command("plot", runs, "--output", "pictures")
    write_run(runs, BATCHE, 0, [0.7] * 10, features=77)
    markdown = command("reproduce", runs, "--keep", "kept")
    assert "batche --features 77" in markdown.replace("`", "")
    assert command("reproduce", "kept") == command("reproduce", "kept", "--keep", "kept") == markdown
    kept = [path for path in Path("kept").rglob("*") if path.is_file()]
    assert {path.name for path in kept} == {*tables.TABLES, "recovery.csv", results.SETTINGS}
    assert not any("/there" in path.read_text() or "/somewhere" in path.read_text() for path in kept)


def test_a_copy_is_replaced_only_by_a_run_with_its_evaluations(command, tmp_path):
    for folder, count in (("short", 4), ("long", 6), ("other", 8)):
        write_run(tmp_path / folder, BATCHE, 0, [0.9] * count, features=9 if folder == "other" else 8)
    command("reproduce", "short", "--keep", "kept")
    (tmp_path / "long" / BATCHE / "seed=0/storage.csv").unlink()
    for folder in ("long", "short", "kept"):  # the second has fewer evaluations
        (tmp_path / "long" / BATCHE / "seed=0/accuracy_matrix.csv").touch()
        command("reproduce", folder, "--keep", "kept")
        assert evaluated("kept") == {f"{BATCHE}/seed=0": [2, 4]}, folder
    write_run(tmp_path / "whole", BATCHE, 0, [0.9] * 6, evaluate_at=(2, 4), features=8)
    (tmp_path / "whole" / BATCHE / "seed=0/storage.csv").unlink()
    command("reproduce", "whole", "other", "--keep", "kept")
    assert evaluated("kept") == {f"{BATCHE}/seed=0": [2, 4, 6], f"{BATCHE}/seed=0~try=1": [2, 8]}
    assert not (tmp_path / "kept" / BATCHE / "seed=0/storage.csv").exists()


def test_the_current_folder_is_kept_under_its_name(command, tmp_path, monkeypatch):
    monkeypatch.chdir(write_run(tmp_path / "runs", BATCHE, 3, [0.9] * 3))
    command("reproduce", ".", "--keep", tmp_path / "kept")
    assert evaluated(tmp_path / "kept") == {f"{BATCHE}/seed=3": [2, 3]}


@pytest.mark.parametrize("name", ["../../outside", "/outside"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    write_run(tmp_path / "runs", BATCHE, 1, [0.7] * 3)
    (run,) = tables.find_runs(tmp_path / "runs")
    with pytest.raises(results.UserError, match="outside', which leads out of"):
        keeping.keep([run, run.__class__(**vars(run) | {"name": name})], tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--keep", "a-file"], "--keep a-file cannot be created (File exists); give another folder"),
        (["--keep", f"runs/{BATCHE}/seed=1"], "is the folder of a run; give a folder for the copies of all runs"),
        (["--keep", "kept", "--plan", "--data", "runs"], "--keep cannot be combined with --plan"),
        (["--keep", "kept", "--output", "no/table.md"], "no/table.md"),
    ],
)
def test_copies_that_cannot_be_made_give_one_line(command, tmp_path, arguments, error):
    write_run(tmp_path / "runs", BATCHE, 1, [0.7] * 3)
    (tmp_path / "a-file").write_text("")
    printed = command("reproduce", "runs", *arguments, status=2)
    assert error in printed and printed.count("\n") == 1
    assert not list((tmp_path / "kept").glob("*"))


@pytest.mark.parametrize(
    ("command", "portable"),
    [
        ("/home/me/s.py --data /d --learned-in /home/me/runs/GG/b/seed=1 --seed 1", "s.py --seed 1"),
        ("/home/me/repo/experiments/GG/s.py --seed 2 --resume", "experiments/GG/s.py --seed 2"),
        ("C:\\Users\\me\\repo\\experiments\\s.py", "experiments/s.py"),
        ("experiments/s.py --data=/d --log_dir /home/r --config /home/c.yaml", "experiments/s.py --config c.yaml"),
        ("/home/me/mine.py --coordinator node7:1234 --hosts 2", "mine.py --hosts 2"),
    ],
)
def test_commands_are_as_from_the_root_of_the_repository(command, portable):
    assert keeping.portable_command({"command": command.split()}) == portable.split()
