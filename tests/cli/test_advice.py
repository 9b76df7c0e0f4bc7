"""The advice after a run whose tasks are often inferred wrongly."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import supsup_jax as ss
from supsup_jax import data, inference, methods, networks, optimizers, scenarios
from supsup_jax.cli import advice, console
from supsup_jax.runs.train import run_experiment

ROOT = Path(__file__).parents[2]
SPLIT = ss.Experiment(
    name="small",
    tasks=data.Split(data.Digits(), 2, num_tasks=5),
    network=networks.LeNet(features=20, width=0.3),
    scenario=scenarios.GNu(ss.OneShot(ss.superfluous()), test_batch_size=32),
    training=ss.Training(steps=60, batch_size=32, optimizer=optimizers.RMSprop(2e-3)),
)
ADVISED = replace(SPLIT, scenario=scenarios.GNu(ss.Exhaustive(), images_per_pick=8, test_batch_size=32))
PERMUTED = replace(SPLIT, tasks=data.Permuted(data.Digits(), num_tasks=5), scenario=scenarios.GNu())


@pytest.mark.parametrize(("experiment", "is_bad"), [(SPLIT, True), (ADVISED, False)], ids=["fails", "works"])
def test_a_run_whose_tasks_are_not_found_ends_with_advice(experiment, is_bad, tmp_path, capsys):
    run = run_experiment(experiment, data.load_digits(), tmp_path)
    console.show_results(run, images_per_task=64)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("inference: ")]
    assert len(lines) == is_bad
    if is_bad:
        assert "(chance: 20 %)" in lines[0] and advice.DOCS in lines[0]
        several = "several images for each inference (--images-per-pick 8)"
        assert f"--search exhaustive, --objective entropy, {several}, giving the task" in lines[0]


def run_of(**parts):
    """Return a run without learned tasks."""
    experiment = replace(PERMUTED, **parts)
    return ss.Run(experiment, experiment.build(data.load_digits()).benchmark.inputs)


@pytest.mark.parametrize(
    ("found", "inferred", "given", "is_bad"),
    [
        (0.42, 0.9, 0.95, True),  # near chance, for any accuracy: labels may be shared
        (0.45, 0.9, 0.95, False),
        (0.78, 0.75, 0.95, True),  # far below
        (0.82, 0.77, 0.95, False),
        (0.45, 0.4, None, False),
        (0.3, 0.3, None, True),
    ],
)
def test_inference_is_bad_near_chance_and_far_below_the_given_task(found, inferred, given, is_bad, monkeypatch):
    monkeypatch.setattr(ss.Run, "num_tasks", 4)
    line = advice.on_inference(run_of(), [found] * 4, [inferred] * 4, None if given is None else [given] * 4)
    assert (line is not None) == is_bad


def test_one_task_is_never_inferred_badly(monkeypatch):
    monkeypatch.setattr(ss.Run, "num_tasks", 1)
    assert advice.on_inference(run_of(), [1.0], [0.5], [0.9]) is None


def test_advice_names_only_flags_that_the_run_supports():
    every = scenarios.GNu(ss.Exhaustive(), images_per_pick=8)
    hopsupsup = {"network": networks.BNNet(features=10, width=0.01), "method": methods.HopSupSup()}
    without_spare_outputs = {"network": networks.LeNet(features=10, width=0.1), "scenario": every}
    gg, several = "giving the task (--scenario GG)", "several images for each inference (--images-per-pick 8)"
    for parts, expected in (
        ({"scenario": every}, [gg]),
        (without_spare_outputs, ["more outputs than classes (--features)", gg]),
        (hopsupsup | {"scenario": scenarios.GNu(inference.Recovery())}, ["--through-memory --attempts 3"]),
        ({"scenario": scenarios.NNs()}, [several, gg]),
        ({"scenario": scenarios.GNu(ss.Binary(), test_batch_size=4)}, ["--search exhaustive", gg]),
        ({"scenario": scenarios.GG()}, ["--search exhaustive", several, "giving the task (--task given)"]),
    ):
        assert advice.remedies(run_of(**parts)) == expected
    assert advice.remedies(run_of(), ss.Exhaustive(), 1) == [several, gg]
    assert advice.remedies(run_of(), ss.Binary(), 8) == ["--search exhaustive", gg]


def test_the_linked_section_of_the_documentation_exists():
    page, _, anchor = advice.DOCS.partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.M)
    assert anchor in [heading.lower().replace(" ", "-") for heading in headings]
