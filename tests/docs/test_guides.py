"""The scripts of the guides, copied into an empty folder and used as a user would."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.tiers import thorough_but
from supsup_jax.runs.checkpoints import Checkpoints

GUIDES = Path(__file__).parents[2] / "docs/guides"
SMALL = ["--num-tasks", "3", "--eval-at", "2", "--steps", "12", "--tasks-at-once", "1"]
TIMES = {"finished", "seconds", "training_seconds"}

# For each guide: the name of its experiment, the flags of its parts, and its parts as arguments of `restore`.
OF_GUIDE = {
    "add_a_method": ("dampened", {"--kept"}, "method=guide.Dampened()"),
    "add_a_network": ("small_cnn", {"--channels", "--kernel"}, "network=guide.SmallCNN()"),
    "add_a_dataset": ("stripes", {"--side", "--noise"}, "tasks=guide.MovedImages(guide.Stripes())"),
    "add_a_search": ("best_few", {"--candidates"}, "search=guide.BestFew()"),
}

# Open a run without its part, with the part as an object, and by the part's name after importing the script.
OPENED = """
import contextlib, importlib, io, json, sys
import numpy as np
import supsup_jax as ss

guide_name, folder = sys.argv[1:3]
report = {}
try:
    ss.restore(folder)
except ss.UserError as error:
    report["unknown"] = str(error)
register = ss.register
ss.register = lambda part=None, **_: part if part is not None else lambda part: part
guide = importlib.import_module(guide_name)
given = ss.restore(folder, PARTS)
ss.register = register
importlib.reload(guide)
named = ss.restore(folder)
images = guide.EXPERIMENT.tasks.load(".").test.images[:20]
for run in (given, named):
    assert run.num_tasks == 3
np.testing.assert_array_equal(given.predict(images, task=1).logits, named.predict(images, task=1).logits)
np.testing.assert_array_equal(given.infer_task(images), named.infer_task(images))
measured = ss.evaluate(named, task="inferred" if named.experiment.scenario.infers else "given")
report["accuracy"] = float(measured.accuracy.mean())
with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
    sys.argv = [f"{guide_name}.py", "--help"]
    ss.main(guide.EXPERIMENT, guide.__doc__)
report["help"] = text.getvalue()
print(json.dumps(report))
"""


def python(folder, *arguments, status=0):
    """Run Python, check its exit status, and return its stdout, or its stderr if it is expected to fail."""
    command = [sys.executable, *map(str, arguments)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == status, ended.stderr
    return ended.stderr if status else ended.stdout


# The commands are the same for all parts.
@pytest.mark.parametrize("name", thorough_but([], OF_GUIDE, long=OF_GUIDE.keys() - {"add_a_method"}))
def test_a_guide_works_as_its_page_says(name, tmp_path):
    script = GUIDES / f"{name}.py"
    (tmp_path / script.name).write_text(script.read_text())
    python(tmp_path, script.name, *SMALL, "--seeds", "2")
    check_the_runs_of_two_seeds(tmp_path, name)
    check_that_a_run_is_opened_by_name_and_by_object(tmp_path, name)


@pytest.mark.long
def test_a_run_of_a_guide_resumes_and_its_script_has_all_commands(tmp_path):
    name = "add_a_method"
    (tmp_path / f"{name}.py").write_text((GUIDES / f"{name}.py").read_text())
    python(tmp_path, f"{name}.py", *SMALL, "--seeds", "2")
    check_that_a_killed_run_resumes_to_the_same_numbers(tmp_path, name)
    check_that_commands_know_the_parts_of_the_script(tmp_path, name)


def measured(run):
    """Return the measurements and the checkpoint records of a run, without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with Checkpoints(run) as checkpoints:
        steps = json.loads(json.dumps(checkpoints.records()))
    return _without_times(lines), _without_times(steps)


def _without_times(plain):
    if isinstance(plain, dict):
        return {name: _without_times(value) for name, value in plain.items() if name not in TIMES}
    return [_without_times(value) for value in plain] if isinstance(plain, list) else plain


def check_the_runs_of_two_seeds(folder, name):
    runs = folder / "runs" / OF_GUIDE[name][0]
    for seed in (0, 1):
        assert (runs / f"seed={seed}/accuracy.png").stat().st_size
        assert "accuracy" in (runs / f"seed={seed}/log.txt").read_text()
    assert len((runs / "results.csv").read_text().splitlines()) == 1 + 2 * 3


def check_that_a_killed_run_resumes_to_the_same_numbers(folder, name):
    experiment = OF_GUIDE[name][0]
    command = [sys.executable, f"{name}.py", *SMALL, "--seed", "1", "--log-dir", "killed"]
    run = folder / "killed" / experiment / "seed=1"
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and not (run / "checkpoints/0").exists():
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (run / "accuracy.png").exists()
    python(folder, *command[1:], "--resume")
    assert measured(run) == measured(folder / "runs" / experiment / "seed=1")


def check_that_a_run_is_opened_by_name_and_by_object(folder, name):
    experiment, flags, parts = OF_GUIDE[name]
    run = f"runs/{experiment}/seed=1"
    report = json.loads(python(folder, "-c", OPENED.replace("PARTS", parts), name, run).splitlines()[-1])
    assert re.fullmatch(rf"{run} uses the \w+ \w+, which is defined in the script .*", report["unknown"])
    assert f"python {name}.py run {run}" in report["unknown"] and "pass the part" in report["unknown"]
    assert all(flag in report["help"] for flag in flags)
    (last,) = [line for line in measured(folder / run)[0] if line.get("kind") == "evaluation"][-1:]
    assert report["accuracy"] == pytest.approx(last["given" if name == "add_a_network" else "inferred"], abs=1e-6)


def check_that_commands_know_the_parts_of_the_script(folder, name):
    run, script = "runs/dampened/seed=1", folder / "unregistered.py"
    script.write_text((folder / f"{name}.py").read_text().replace("@ss.register\n", ""))
    for command in ("evaluate", "run"):
        complaint = python(folder, "-m", "supsup_jax", command, run, status=2)
        assert complaint.count("\n") == 1 and "uses the method Dampened" in complaint
        python(folder, script.name, command, run)
    python(folder, script.name, *SMALL, "--seeds", "2", "--log-dir", "others")
    assert measured(folder / "others/dampened/seed=1") == measured(folder / run)


@pytest.mark.parametrize("name", OF_GUIDE)
def test_a_guide_is_one_short_script_shown_on_its_page(name):
    assert len((GUIDES / f"{name}.py").read_text().splitlines()) < 100
    assert f'--8<-- "guides/{name}.py"' in (GUIDES.parent / f"{name}.md").read_text()
