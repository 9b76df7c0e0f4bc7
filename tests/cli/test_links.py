"""Runs that are reached through symbolic links."""

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
    links, target = tmp_path / "collected", tmp_path / "elsewhere"
    run = write_run(target, f"{LENET}/supsup_h", 0, [0.9] * 3, [0.9] * 3)
    write_run(target / "more", f"{FC}/batche", 1, [0.9] * 3, [0.5] * 3)
    links.mkdir()
    (links / "a").symlink_to(run)
    (links / "b").symlink_to(target / "more")
    (links / "c").symlink_to(os.path.relpath(target, links))  # both runs again
    (links / "loop").symlink_to(links)
    (target / "loop").symlink_to(target)
    (links / "nowhere").symlink_to(tmp_path / "missing")
    return links


def test_each_linked_run_is_found_once_despite_loops(linked):
    runs = tables.read_runs([linked, linked / "b", linked / "loop"])
    assert {(run.name, run.seed) for run in runs} == {(f"{LENET}/supsup_h", 0), (f"{FC}/batche", 1)}
    assert len(runs) == 2 and all(str(run.folder).startswith(str(linked)) for run in runs)
    assert tables.read_runs([linked / "a"])[0].folder == linked / "a"


def test_plot_bytes_and_reproduce_find_linked_runs(command, linked, tmp_path):
    assert len(json.loads(command("bytes", linked, "--json"))) == 2
    assert "figure3.png" in command("plot", linked, "--output", tmp_path / "pictures")
    table = command("reproduce", linked)
    assert table == command("reproduce", tmp_path / "elsewhere") != command("reproduce")


def test_a_linked_run_is_shown_and_evaluated(command, tmp_path):
    run = shutil.copytree(STORED, tmp_path / "run")
    (tmp_path / "link").symlink_to(run)
    for arguments in (["show"], ["evaluate", "--tasks", "0:1"]):
        name, *more = arguments
        plain, linked = (json.loads(command(name, tmp_path / place, *more, "--json")) for place in ("run", "link"))
        assert plain | {"run": ""} == linked | {"run": ""}


def test_a_link_inside_a_checkpoint_is_rejected(command, tmp_path):
    run = shutil.copytree(STORED, tmp_path / "run")
    (file,) = run.glob("checkpoints/0/record/metadata")
    file.rename(tmp_path / "metadata")
    file.symlink_to(tmp_path / "metadata")
    assert "metadata cannot be read (it is a link" in command("show", run, status=2)


def test_linked_runs_of_single_tasks_are_collected_beside_the_links(tmp_path):
    together = tmp_path / "all"
    together.mkdir()
    for task in range(2):
        place, settings = tmp_path / f"node{task}", {"first_task": task, "num_tasks": 1, "eval_at": []}
        run = write_run(place, f"{CIFAR}-supsup", 1, [0.5], evaluate_at=(1,), **settings)
        with (run / "settings.yaml").open("a") as file:
            file.write("options: {data: data, tasks_at_once: null}\n")
        (together / f"seed=1~task={task}").symlink_to(run)
    assert collection.groups([together]) == [sorted(together.iterdir())]
