import dataclasses
import math
from pathlib import Path

import pytest

from helpers import adapter
from helpers.figures import FC, HOPSUPSUP, LENET, LONG, write_run
from supsup_jax import UserError
from supsup_jax.paper import planning, reproducing, scripts
from supsup_jax.paper.planning import Job, Plan, Rates
from supsup_jax.paper.scripts import Script
from supsup_jax.runs import tables

RATES = Rates(task=10.0, given=0.0, pair=0.0)


def experiment(name, counts=(10, 50), num_tasks=100, **settings):
    return adapter.experiment(name, num_tasks=num_tasks, eval_at=counts, **settings)


def settings_of(name, **settings):
    """Return the settings of a run of that experiment, without name and seed."""
    return {
        key: value for key, value in adapter.plain(experiment(name, **settings)).items() if key not in ("name", "seed")
    }


def job(seconds, counts=(10, 50), name="a", **rates):
    """Return a job with this training time per task, in seconds."""
    of = experiment(name, num_tasks=counts[-1])
    return Job(Path("a.py"), of, counts, 0, frozenset(), Rates(seconds, 0.0, 0.0)._replace(**rates))


def missing(wanted, runs, num_tasks=100, rates_of=lambda _: RATES, **arguments):
    """Return the plan of missing runs, with a script for every experiment."""

    def script_of(name):
        return Script(Path(f"{name}.py"), experiment(name, num_tasks=num_tasks))

    return planning.missing(wanted, runs, script_of, rates_of, **arguments)


@pytest.mark.parametrize(("text", "seconds"), [("8h", 28800), ("45m", 2700), ("90s", 90), ("1.5h", 5400)])
def test_a_budget_has_a_unit(text, seconds):
    assert planning.parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["8", "h", "8 h", "8d", "-1h", "0s", "8h30m", "1e3s", ""])
def test_an_error_names_an_invalid_budget(text):
    with pytest.raises(UserError, match=r"--budget .*: must be a time such as 8h, 45m or 90s"):
        planning.parse_budget(text)


def test_time_grows_with_the_tasks_and_inference_with_their_square():
    rates = Rates(task=2.0, given=0.5, pair=0.1)
    assert rates.evaluation(10) == 0.5 * 10 + 0.1 * 100
    of = experiment("a", num_tasks=50)
    plain = Job(Path("a.py"), of, (10, 50), 0, frozenset(), rates)
    assert plain.seconds == 2.0 * 50 + (5 + 10) + (25 + 250)
    resumed = dataclasses.replace(plain, learned=20, evaluated=frozenset({10}))
    assert resumed.seconds == 2.0 * 30 + (25 + 250)
    assert plain.shortened(10).seconds == 2.0 * 10 + (5 + 10)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(10, 15.0), (50, 275.0)], (0.5, 0.1)),
        ([(10, 15.0), (50, 275.0), (100, 1050.0)], (0.5, 0.1)),
        ([(10, 10.0), (20, 10.0)], (0.75, 0.0)),  # both took the same time: no quadratic term
        ([(10, 1.0), (20, 8.0)], (0.0, 0.015)),  # grows faster than n²: no linear term
    ],
)
def test_rates_of_evaluations_are_fitted(points, expected):
    assert planning._fit(points) == pytest.approx(expected)


def test_rates_are_read_from_runs(tmp_path):
    def guess():
        return Rates(100.0, 3.0, 1.0)

    write_run(tmp_path, f"{LENET}/supsup_h", 1, [0.9] * 4, [0.9] * 4, learned=[0.9] * 4)
    write_run(tmp_path, f"{LENET}/batche", 1, [0.9] * 4, learned=[0.9] * 4)
    by_name = {run.name.rpartition("/")[2]: run for run in tables.read_runs([tmp_path])}
    # Half a second per task, and one second for each of the evaluations after 2 and 4 tasks.
    assert planning.measured_rates([by_name["batche"]], guess) == (0.5, 0.375, 0)
    assert planning.measured_rates([by_name["supsup_h"]], guess) == (0.5, 0.375, 0)
    write_run(tmp_path / "one", f"{LENET}/supsup_h", 1, [0.9] * 2, [0.9] * 2, learned=[0.9] * 2)
    # One second for the evaluation after 2 tasks, while the estimate was 10 seconds.
    assert planning.measured_rates(tables.read_runs([tmp_path / "one"]), guess) == pytest.approx((0.5, 0.3, 0.1))
    write_run(tmp_path / "none", f"{LENET}/supsup_h", 1, [0.9] * 2, [0.9] * 2)
    assert planning.measured_rates(tables.read_runs([tmp_path / "none"]), guess) is None


def test_a_number_is_missing_until_a_run_has_measured_it(tmp_path):
    wanted = planning.select([f"{LENET}/psp"])
    (before,) = missing(wanted, []).jobs
    assert (before.counts, before.experiment.num_tasks, before.experiment.seed) == ((10, 50), 50, 1)
    settings = settings_of(f"{LENET}/psp")
    write_run(tmp_path, f"{LENET}/psp", 7, [0.9] * 10, learned=[0.9] * 30, **settings)
    (longer,) = missing(wanted, tables.find_runs(tmp_path)).jobs
    assert (longer.counts, longer.learned, longer.experiment.seed) == ((50,), 30, 7), "the run is extended"
    write_run(tmp_path, f"{LENET}/psp", 8, [0.9] * 50, **settings)
    assert missing(wanted, tables.find_runs(tmp_path)).jobs == []


def test_runs_with_other_settings_are_ignored(tmp_path):
    settings = settings_of(f"{LENET}/psp", features=11)
    write_run(tmp_path, f"{LENET}/psp", 1, [0.9] * 50, evaluate_at=(10,), **settings)
    (job,) = missing(planning.select([f"{LENET}/psp"]), tables.find_runs(tmp_path)).jobs
    assert (job.counts, job.learned) == ((10, 50), 0)


def test_tasks_that_another_experiment_has_learned_are_not_learned_again(tmp_path):
    wanted = planning.select([f"{LENET}/supsup_g"])
    for seed, settings in ((1, {}), (2, {"features": 11}), (3, {"search": "of a script"}), (4, {"optimizer": "own"})):
        plain = settings_of(f"{LENET}/supsup_h") | settings
        write_run(tmp_path, f"{LENET}/supsup_h", seed, [0.9] * 2, learned=[0.9] * 30, **plain)
    runs = tables.find_runs(tmp_path)
    plan = missing(wanted, runs, seeds=range(1, 5))
    found = {job.experiment.seed: (job.learned, job.learned_in) for job in plan.jobs}
    folder = tmp_path / f"{LENET}/supsup_h"
    assert found == {1: (30, folder / "seed=1"), 2: (0, None), 3: (30, folder / "seed=3"), 4: (0, None)}
    request = reproducing.Request(tmp_path / "runs", tmp_path, wanted)
    words = {job.experiment.seed: reproducing.command_of(job, request) for job in plan.jobs}
    assert words[1][-2:] == ["--learned-in", str(folder / "seed=1")]
    assert "--learned-in" not in words[2]
    write_run(tmp_path, f"{LENET}/supsup_g", 1, [0.9] * 2, learned=[0.9] * 5, **settings_of(f"{LENET}/supsup_g"))
    (job,) = missing(wanted, tables.find_runs(tmp_path)).jobs
    assert (job.learned, job.learned_in) == (5, None), "a run of the same experiment is resumed"


def test_with_seeds_every_number_requires_a_run_with_each_seed(tmp_path):
    settings = settings_of(f"{LENET}/psp")
    write_run(tmp_path, f"{LENET}/psp", 1, [0.9] * 50, evaluate_at=(10,), **settings)
    plan = missing(planning.select([f"{LENET}/psp"]), tables.find_runs(tmp_path), seeds=range(3))
    assert [job.experiment.seed for job in plan.jobs] == [0, 2]


def test_one_run_measures_both_bounds(tmp_path):
    wanted = planning.select([f"{LONG}/upper_bound", f"{LONG}/lower_bound"])
    (both,) = missing(wanted, [], num_tasks=2500).jobs
    assert both.experiment.name == f"{LONG}/bounds"
    assert both.counts == (10, 50, 2500)
    settings = settings_of(f"{LONG}/bounds", num_tasks=2500)
    write_run(tmp_path, f"{LONG}/bounds", 1, [0.9] * 50, learned=[0.9] * 60, evaluate_at=(10,), **settings)
    plan = missing(wanted, tables.find_runs(tmp_path), num_tasks=2500)
    assert plan.jobs[0].counts == (2500,)
    assert plan.left_out == [
        f"{LONG}/bounds after 1, 2, 4, 5, 15, 20, 30, 100 tasks: its script does not evaluate there"
    ]


def test_runs_that_cannot_be_made_are_skipped_with_the_reason():
    wanted = planning.select([f"{LENET}/psp", HOPSUPSUP])
    no_script = planning.missing(wanted, [], lambda _: None, lambda _: RATES)
    assert no_script == ([], [f"{LENET}/psp: there is no script", f"{HOPSUPSUP}: there is no script"])
    no_data = missing(planning.select([f"{LENET}/psp"]), [], has_data=lambda name: name != "mnist")
    assert no_data == ([], [f"{LENET}/psp, seed 1: the data set mnist is not in the data folder"])


def test_the_shortest_run_comes_first():
    wanted = planning.select([f"{LENET}/psp", f"{FC}/psp", HOPSUPSUP])
    seconds = {f"{LENET}/psp": 3.0, f"{FC}/psp": 1.0, HOPSUPSUP: 2.0}
    plan = missing(wanted, [], num_tasks=50, rates_of=lambda of: Rates(seconds[of.name], 0.0, 0.0))
    assert [job.experiment.name for job in plan.jobs] == [f"{FC}/psp", f"{LENET}/psp"]
    assert plan.left_out[-1] == f"{HOPSUPSUP} after 5 tasks: its script does not evaluate there"


def test_a_budget_shortens_or_skips_runs_that_do_not_fit():
    first, second, third = job(1.0, name="a"), job(2.0, name="b"), job(30.0, name="c")
    everything = Plan([first, second, third], ["before"])
    assert planning.fit(everything) == everything
    plan = planning.fit(everything, 100.0)  # a takes 50 s; the remaining 50 s are enough for 10 tasks of b (20 s)
    assert [(job.experiment.name, job.experiment.num_tasks, job.counts) for job in plan.jobs] == [
        ("a", 50, (10, 50)),
        ("b", 10, (10,)),
    ]
    assert plan.seconds == 70
    assert plan.left_out == [
        "before",
        "b, seed 1: only 10 of 50 tasks, since it takes about 1 min 40 s in full",
        "c, seed 1: left out, since it takes about 25 min 00 s in full",
    ]
    assert planning.fit(everything, 5.0).jobs == []
    assert planning.fit(everything, math.inf).seconds == 50 + 100 + 1500


def test_only_selects_folders_scripts_and_both_bounds():
    everything = planning.select([])
    assert {number.run for number in planning.select(["experiments/NNs/supsup.py"])} == {"NNs/supsup"}
    assert {number.curve for number in planning.select([f"{LENET}/bounds"])} == {f"{LENET}/upper_bound"}
    folder = planning.select(["GNu/MNISTPerm/", "GG"])
    assert folder == [number for number in everything if number.curve.startswith(("GNu/MNISTPerm/", "GG/"))]
    with pytest.raises(UserError, match="--only GNu/MNIST: the paper has no such results; give scripts, or folders"):
        planning.select(["GNu/MNIST"])


def test_every_number_has_a_script_that_measures_it():
    plan = planning.missing(planning.select([]), [], scripts.script_of, lambda _: RATES)
    assert plan.left_out == []
    sparsities = [
        adapter.settings_of(job.experiment).er_scale for job in plan.jobs if job.experiment.name.endswith("rn50-supsup")
    ]
    assert sorted(sparsities) == [4, 8, 16]
