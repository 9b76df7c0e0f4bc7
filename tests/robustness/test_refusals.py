"""Rejected commands do not change runs and create no files."""

import importlib.metadata
import sys

import pytest
import yaml

from helpers import adapter
from helpers.figures import LENET, paths, write_run
from supsup_jax import UserError
from supsup_jax.cli import launch, sweep
from supsup_jax.cli.cluster import Cluster, Jobs
from supsup_jax.runs import records, results, shared_table, tables
from supsup_jax.system.rows import read_rows

SCRIPT = adapter.experiment("script", "digits", num_tasks=3, steps=3, width=0.1, scenario="GG", batch_size=32)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder for results, with a run of three tasks."""
    log_dir = tmp_path_factory.mktemp("learned")
    with pytest.MonkeyPatch.context() as patched:
        call(patched, log_dir)
    return log_dir


def call(monkeypatch, log_dir, *arguments):
    monkeypatch.setattr(sys, "argv", ["script.py", "--log-dir", str(log_dir), *map(str, arguments)])
    return launch.main(SCRIPT, "A script.")


@pytest.fixture
def script(monkeypatch):
    return lambda log_dir, *arguments: call(monkeypatch, log_dir, *arguments)


def state(folder):
    """Return all files with modification times and contents, and folders, except locks."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else None
        for path in folder.rglob("*")
        if ".lock" not in path.name
    }


def refused(capfd, call, *words):
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        call()
    error = capfd.readouterr().err
    assert ended.value.code == 2 and all(word in error for word in words), error
    return error


def test_a_rejected_resume_does_not_change_the_run(script, learned, capfd):
    before = state(learned)
    refused(capfd, lambda: script(learned, "--num-tasks", 2, "--resume"), "contains 3 tasks; give --num-tasks 3")
    refused(capfd, lambda: script(learned, "--steps", 4, "--resume"), "steps: 3 before, 4 now")
    (table,) = learned.glob("script/results.csv")
    whole = table.read_bytes()
    table.write_bytes(whole + b'"' + bytes(200_000))
    damaged = state(learned)
    refused(capfd, lambda: script(learned, "--num-tasks", 4, "--resume"), "results.csv is not a CSV file")
    assert state(learned) == damaged
    table.write_bytes(whole)
    assert {path: content and content[1] for path, content in state(learned).items()} == {
        path: content and content[1] for path, content in before.items()
    }
    (folder,) = learned.glob("script/*/")
    launch.run(folder)
    assert results.read_settings(folder)["experiment"]["num_tasks"] == 3


def test_a_rejected_sweep_does_not_change_its_runs(script, learned, capfd, monkeypatch):
    before = state(learned)
    monkeypatch.setattr(sweep, "run", lambda *_: pytest.fail("it was started"))
    several = ["--seeds", 2, "--resume"]  # seed 1 exists, with more tasks
    refused(capfd, lambda: script(learned, "--num-tasks", 2, *several), "contains 3 tasks")
    assert state(learned) == before


def test_jobs_that_a_cluster_refuses_do_not_change_runs(script, learned, capfd, monkeypatch):
    def refuse(*_):
        (settings,) = learned.glob("script/seed=1/settings.yaml")
        assert yaml.safe_load(settings.read_text())["experiment"]["num_tasks"] == 4
        raise UserError("the cluster refuses the jobs")

    contents = {path: path.read_bytes() for path in learned.rglob("*.yaml")}
    monkeypatch.setattr(Cluster, "check", lambda _: None)
    monkeypatch.setattr(Jobs, "submit", refuse)
    several = ["--seeds", 2, "--num-tasks", 4, "--resume", "--cluster", "local"]
    refused(capfd, lambda: script(learned, *several), "the cluster refuses")
    assert {path: path.read_bytes() for path in learned.rglob("*.yaml")} == contents


def test_a_rejected_new_run_leaves_no_folder(script, tmp_path, capfd, monkeypatch):
    def refuse(*_):
        raise UserError("refused")

    monkeypatch.setattr("supsup_jax.runs.train._check_tasks", refuse)
    refused(capfd, lambda: script(tmp_path), "refused")
    assert not [path for path in tmp_path.rglob("*") if path.name != "script"]


def test_a_checkout_that_is_not_installed_has_an_unknown_version(script, tmp_path, monkeypatch):
    version = importlib.metadata.version

    def missing(name):
        if name == "supsup_jax":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    script(tmp_path, "--num-tasks", 1)
    (settings,) = tmp_path.glob("script/*/settings.yaml")
    versions = yaml.safe_load(settings.read_text())["versions"]
    assert versions["supsup_jax"] == "unknown" and versions["jax"] == version("jax")


def test_errors_in_settings_occur_before_the_folder_is_created(script, tmp_path, monkeypatch):
    monkeypatch.setattr(results.platform, "platform", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        script(tmp_path)
    assert not list(tmp_path.iterdir())


def test_resume_names_the_folder_if_there_is_nothing_to_resume(script, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script("runs", "--num-tasks", 1, "--resume")
    note = f"--resume found nothing to resume in {tmp_path}/runs/script for seed=1; it starts from the beginning\n"
    assert capfd.readouterr().err == note
    script("runs", "--num-tasks", 1, "--resume")
    assert "nothing to resume" not in capfd.readouterr().err
    monkeypatch.setattr(sweep, "run", lambda *_: None)
    script("elsewhere", "--num-tasks", 1, "--resume", "--seeds", 5)
    note = f"{tmp_path}/elsewhere/script for seed=0, seed=1, seed=2 and 2 more; they start from the beginning"
    assert note in capfd.readouterr().err


def padded(rows, delimiter):
    """Return a table as a spreadsheet saves it: all rows have the same length, and empty rows follow."""
    width = max(map(len, rows)) + 2
    cells = [[*row, *[""] * (width - len(row))] for row in [*rows, [], []]]
    if delimiter == ";":
        cells = [[cell.replace(".", ",") if cell[:1].isdigit() else cell for cell in row] for row in cells]
    return "".join(delimiter.join(row) + "\r\n" for row in cells)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"], ids=["commas", "semicolons", "tabs"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_tables_saved_by_a_spreadsheet_are_read(tmp_path, delimiter, mark):
    folder = write_run(tmp_path, f"{LENET}/psp", 1, [0.5, 0.25, 1.0], [0.5, 0.5, 0.5], paths(3, 4), learned=[0.5] * 3)
    (before,) = tables.read_runs([tmp_path])
    recovery = tables.read_recovery(folder / "recovery.csv")
    for name in ("accuracy_matrix.csv", "storage.csv", "recovery.csv"):
        path = folder / name
        path.write_bytes((mark + padded(read_rows(path), delimiter)).encode())
    metrics = folder / "metrics.jsonl"
    metrics.write_bytes((mark + metrics.read_text().replace("\n", "\r\n")).encode())
    (after,) = tables.read_runs([tmp_path])
    assert (after.accuracies, after.storage, after.timing) == (before.accuracies, before.storage, before.timing)
    assert tables.read_recovery(folder / "recovery.csv") == recovery


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_only_new_rows_are_added_to_a_table_saved_by_a_spreadsheet(tmp_path, delimiter):
    path = tmp_path / "results.csv"
    tasks = [records.TaskResult(task, "2020-12-06 12:00:00", 0.25, 0.9371, 0.94, 2.5) for task in range(3)]
    shared_table.append_results(path, tmp_path, "a", tasks[:2])
    saved = padded(read_rows(path), delimiter).replace("2020-12-06 12:00:00", "06/12/2020 12:00").replace("400", "4")
    path.write_text(saved, newline="")
    shared_table.append_results(path, tmp_path, "a", tasks)
    rows = read_rows(path)
    assert [row[1] for row in rows[1:]] == ["a~task=0", "a~task=1", "a~task=2"]
    assert [len(row) for row in rows] == [5] * 4
