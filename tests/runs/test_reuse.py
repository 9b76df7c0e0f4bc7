import dataclasses
import shutil
import sys

import jax
import pytest

from helpers import adapter
from helpers.runs import DATASET, EXPERIMENT, OTHERS, measured
from helpers.toys import HOPSUPSUP
from supsup_jax import UserError
from supsup_jax.cli import launch
from supsup_jax.methods import SupSup
from supsup_jax.networks import save_weights
from supsup_jax.runs import reuse
from supsup_jax.runs.opening import restore
from supsup_jax.runs.settings import read_run
from supsup_jax.scenarios import GNu

LEARNED = adapter.changed(EXPERIMENT, num_tasks=5, eval_at=(2, 4))
OTHER_SEARCH = adapter.changed(
    LEARNED, name="other", search="exhaustive", objective="superfluous", images_per_pick=2, eval_at=(3,)
)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    adapter.run_experiment(LEARNED, DATASET, folder)
    return folder


def files(folder):
    paths = (path for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name)
    return {path: path.read_bytes() for path in paths if path.name != ".lock"}


@pytest.mark.parametrize("num_tasks", [3, 5, 7])
def test_a_run_takes_the_tasks_of_another_and_evaluates_like_its_own(learned, tmp_path, num_tasks):
    experiment = adapter.changed(OTHER_SEARCH, num_tasks=num_tasks)
    before, reports = files(learned), []
    for name in ("taken", "whole"):
        (tmp_path / name).mkdir()
    taken = adapter.run_experiment(experiment, DATASET, tmp_path / "taken", None, reports.append, learned_in=learned)
    whole = adapter.run_experiment(experiment, DATASET, tmp_path / "whole")
    assert measured(taken.record) == measured(whole.record)
    assert any("tasks from a different run" in report.message for report in reports)
    assert sum("learning" in report.message for report in reports) == (num_tasks > 5)
    assert measured(restore(tmp_path / "taken").record) == measured(whole.record)
    assert files(learned) == before


def test_a_run_that_has_tasks_keeps_them(learned, tmp_path):
    short = adapter.changed(OTHER_SEARCH, num_tasks=2, eval_at=(2,))
    adapter.run_experiment(short, DATASET, tmp_path)
    before = files(tmp_path)
    adapter.run_experiment(short, DATASET, tmp_path, learned_in=learned / "missing")
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        (
            adapter.changed(OTHER_SEARCH, seed=3),
            "may have learned differently (seed: 1 before, 3 now); give a run that differs only in",
        ),
        (adapter.changed(OTHER_SEARCH, learning_rate=0.5), "differently (learning_rate: 0.01 before, 0.5 now)"),
        (adapter.changed(OTHER_SEARCH, optimizer="SGD", learning_rate=0.01), "optimizer: RMSprop before, SGD now"),
        (adapter.changed(OTHER_SEARCH, density=0.5), "differently (density: None before, 0.5 now)"),
        (OTHERS["PSP"], "is for tasks that are learned independently, unlike those of PSP"),
        (OTHERS["BatchE"], "is for tasks that are learned independently, unlike those of BatchE"),
        (OTHERS["SeparateHeads"], "unlike those of SeparateHeads"),
        (OTHERS["NNs"], "unlike those of scenario NNs"),
        (HOPSUPSUP, "unlike those of HopSupSup"),
    ],
)
def test_tasks_that_would_be_learned_differently_are_rejected(learned, tmp_path, experiment, words):
    with pytest.raises(UserError) as error:
        adapter.run_experiment(experiment, DATASET, tmp_path, learned_in=learned)
    assert words in str(error.value)
    assert not files(tmp_path)


def test_a_folder_must_have_a_run_which_may_have_no_tasks_yet(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"--learned-in .*empty does not contain a run's checkpoints; give the folder"):
        adapter.run_experiment(OTHER_SEARCH, DATASET, tmp_path / "run", learned_in=tmp_path / "empty")
    (tmp_path / "new/checkpoints").mkdir(parents=True)
    run = adapter.run_experiment(OTHER_SEARCH, DATASET, tmp_path / "run", learned_in=tmp_path / "new")
    assert run.num_tasks == OTHER_SEARCH.num_tasks


def test_a_run_with_given_weights_takes_tasks_over_the_same_weights(tmp_path):
    path = tmp_path / "weights.msgpack"
    weights, _ = LEARNED.network.for_images(DATASET.image_shape).init(jax.random.key(9))
    save_weights(path, weights)
    given = [adapter.changed(each, base_weights=str(path), num_tasks=2) for each in (LEARNED, OTHER_SEARCH)]
    for name in ("learned", "taken", "whole"):
        (tmp_path / name).mkdir()
    adapter.run_experiment(given[0], DATASET, tmp_path / "learned")
    taken = adapter.run_experiment(given[1], DATASET, tmp_path / "taken", learned_in=tmp_path / "learned")
    whole = adapter.run_experiment(given[1], DATASET, tmp_path / "whole")
    path.unlink()
    assert measured(restore(tmp_path / "taken").record) == measured(taken.record) == measured(whole.record)


def test_a_run_that_was_killed_before_its_first_checkpoint_takes_them(tmp_path, monkeypatch, capfd):
    script = adapter.experiment("script", "digits", num_tasks=2, steps=3, width=0.1, batch_size=32)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
        return launch.main(script, "A script.")

    call()
    with pytest.raises(SystemExit) as ended:
        call("--objective", "superfluous", "--log-dir", "refused", "--learned-in", "runs/script")
    error = capfd.readouterr().err
    assert (
        ended.value.code == 2 and error.count("\n") == 1 and "runs/script does not contain a run's checkpoints" in error
    )
    assert not (tmp_path / "refused").exists()
    arguments = ["--objective", "superfluous", "--log-dir", "new", "--learned-in", "runs/script/seed=1"]
    (first,) = call(*arguments)
    folder = tmp_path / "new/script/seed=1"
    for path in folder.iterdir():
        if path.name != "settings.yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    monkeypatch.chdir(folder)
    launch.run(folder)
    assert capfd.readouterr().out.count("tasks from a different run") == 2
    assert measured(restore(folder).record) == measured(first.record)


def test_only_settings_of_inference_and_evaluation_may_differ():
    recorded = adapter.plain(adapter.changed(LEARNED, search="binary", log_base=4))
    assert reuse.differences(adapter.changed(OTHER_SEARCH, search="binary", log_base=2), recorded) == []
    assert reuse.differences(OTHER_SEARCH, recorded | {"optimizer": "of a script"})
    masked = dataclasses.replace(LEARNED, method=SupSup(mask=lambda scores: scores > 0))
    assert reuse.differences(masked, recorded) and reuse.differences(LEARNED, adapter.plain(masked))
    old = {name: value for name, value in recorded.items() if name not in ("density", "schedule")}
    assert reuse.differences(LEARNED, old) == []
    assert reuse.differences(adapter.changed(LEARNED, density=0.5), old) == ["density: None before, 0.5 now"]


def test_a_different_data_set_is_rejected(learned, tmp_path):
    brighter = DATASET._replace(mean=(0.9,))
    with pytest.raises(UserError, match=r"may have learned differently \(the data set\)"):
        adapter.run_experiment(OTHER_SEARCH, brighter, tmp_path, learned_in=learned)


class OfItsOwn(GNu):
    """A scenario that learns in its own way, which may depend on the search."""

    def learn(self, work):
        return super().learn(work)


def test_custom_training_is_not_shared():
    custom = [dataclasses.replace(each, scenario=OfItsOwn(each.scenario.search)) for each in (LEARNED, OTHER_SEARCH)]
    assert reuse.learned_alike([LEARNED, OTHER_SEARCH]) == [None, 0]
    assert reuse.learned_alike(custom) == [None, None]
    masks = [dataclasses.replace(LEARNED, method=SupSup(mask=lambda scores, c=c: scores > c)) for c in (0, 1)]
    assert reuse.learned_alike(masks) == [None, None], "two functions have the same name"


def test_in_a_sweep_each_pair_of_runs_learns_its_tasks_once(tmp_path, monkeypatch, capfd):
    swept = [
        adapter.changed(LEARNED, features=features, objective=objective, seed=seed)
        for features in (8, 9)
        for objective in ("entropy", "superfluous")
        for seed in (1, 2)
    ]
    assert reuse.learned_alike(swept) == [None, None, 0, 1, None, None, 4, 5]
    assert reuse.learned_alike([OTHERS["PSP"], OTHERS["PSP"]]) == [None, None]
    monkeypatch.setattr(
        sys, "argv", ["script.py", "--log-dir", str(tmp_path), "--objective", "entropy", "superfluous", "--seeds", "2"]
    )
    monkeypatch.setattr(launch.sweep, "run", lambda *_: None)  # starts no process
    script = adapter.experiment("script", "digits", num_tasks=2, steps=3, width=0.1, batch_size=32)
    launch.main(script, "A script.", objective=("entropy",))
    folders = {folder.name: folder for folder in (tmp_path / "script").iterdir()}
    taken = {name: read_run(folder)[1]["learned_in"] for name, folder in folders.items()}
    assert taken == {
        f"seed={seed}~objective={objective}": None
        if objective == "entropy"
        else str(folders[f"seed={seed}~objective=entropy"])
        for seed in (0, 1)
        for objective in ("entropy", "superfluous")
    }
    first, second = (folders[f"seed=1~objective={name}"] for name in ("entropy", "superfluous"))
    launch.run(second)  # learns all tasks, since the other run has none
    shutil.rmtree(second / "checkpoints")
    whole = (second / "metrics.csv").read_text()
    launch.run(first)
    launch.run(second)
    assert (second / "metrics.csv").read_text() == whole
    damaged = next((first / "checkpoints").rglob("metadata"))
    damaged.write_bytes(b"")
    shutil.rmtree(second / "checkpoints")
    launch.run(second)
    assert "all tasks are learned here" in capfd.readouterr().err
    assert (second / "metrics.csv").read_text() == whole
