"""Results that are collected under one folder by links."""

import json
import os
import shutil
from pathlib import Path

import pytest

from helpers.figures import CIFAR, FC, LENET, write_run
from supsup_jax.cli import collection
from supsup_jax.runs import tables

STORED = Path(__file__).parents[1] / "stored/format-2-SupSup"


@pytest.fixture
def linked(tmp_path):
    """A folder with links to runs, to folders of runs, and to itself."""
    here, there = tmp_path / "collected", tmp_path / "elsewhere"
    one = write_run(there, f"{LENET}/supsup_h", 0, [0.9] * 3, [0.9] * 3)
    write_run(there / "more", f"{FC}/batche", 1, [0.9] * 3, [0.5] * 3)
    here.mkdir()
    (here / "a").symlink_to(one)
    (here / "b").symlink_to(there / "more")
    (here / "c").symlink_to(os.path.relpath(there, here))  # both of them again
    (here / "loop").symlink_to(here)
    (there / "loop").symlink_to(there)
    (here / "nowhere").symlink_to(tmp_path / "missing")
    return here


def test_runs_behind_links_are_found_once_each_and_loops_end(linked):
    runs = tables.read_runs([linked, linked / "b", linked / "loop"])
    assert {(run.name, run.seed) for run in runs} == {(f"{LENET}/supsup_h", 0), (f"{FC}/batche", 1)}
    assert len(runs) == 2 and all(str(run.folder).startswith(str(linked)) for run in runs)
    assert tables.read_runs([linked / "a"])[0].folder == linked / "a"


def test_plot_bytes_and_reproduce_find_runs_behind_links(command, linked, tmp_path):
    assert len(json.loads(command("bytes", linked, "--json"))) == 2
    assert "figure3.png" in command("plot", linked, "--output", tmp_path / "pictures")
    table = command("reproduce", linked)
    assert table == command("reproduce", tmp_path / "elsewhere") != command("reproduce")


def test_a_run_behind_a_link_is_shown_and_evaluated(command, tmp_path):
    run = shutil.copytree(STORED, tmp_path / "run")
    (tmp_path / "link").symlink_to(run)
    for arguments in (["show"], ["evaluate", "--tasks", "0:1"]):
        name, *more = arguments
        plain, linked = (json.loads(command(name, tmp_path / place, *more, "--json")) for place in ("run", "link"))
        assert plain | {"run": ""} == linked | {"run": ""}


def test_a_link_inside_a_checkpoint_stays_refused(command, tmp_path):
    run = shutil.copytree(STORED, tmp_path / "run")
    (file,) = run.glob("checkpoints/0/record/metadata")
    file.rename(tmp_path / "metadata")
    file.symlink_to(tmp_path / "metadata")
    assert "metadata cannot be read (it is a link" in command("show", run, status=2)


def test_tasks_behind_links_are_collected_beside_them(tmp_path):
    together = tmp_path / "all"
    together.mkdir()
    for task in range(2):
        place, settings = tmp_path / f"node{task}", {"first_task": task, "num_tasks": 1, "eval_at": []}
        run = write_run(place, f"{CIFAR}-supsup", 1, [0.5], evaluate_at=(1,), **settings)
        with (run / "settings.yaml").open("a") as file:
            file.write("options: {data: data, tasks_at_once: null}\n")
        (together / f"seed=1~task={task}").symlink_to(run)
    assert collection.groups([together]) == [sorted(together.iterdir())]
