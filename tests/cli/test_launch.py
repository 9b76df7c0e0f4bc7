import re
import sys
import types

import pytest

from helpers import adapter
from supsup_jax import UserError, data
from supsup_jax.cli import flags, launch, options
from supsup_jax.runs import results
from supsup_jax.runs.settings import load_experiment, write_run

DENSE = adapter.experiment("script", "digits", num_tasks=9, steps=100)


@pytest.fixture
def parse(monkeypatch):
    """What a command line makes of the script's experiment."""

    def parsed(*arguments, experiment=DENSE, **sweep):
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
        return flags.parse(experiment, "A script.", sweep)

    return parsed


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


def test_a_file_has_the_settings_of_an_experiment(config):
    path = config("name: x\nsparsity: 16\neval_at: [2, 3]\nlearning_rate: 1.0e-3\ncheck_epochs: false\nseed: 0\n")
    expected = adapter.experiment("x", er_scale=16.0, eval_at=(2, 3), learning_rate=1e-3, check_epochs=False, seed=0)
    assert load_experiment(path) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("num_taks: 3", ["num_taks", "did you mean num_tasks?"]),
        ("er_scale: 3", ["er_scale", "did you mean sparsity?"]),
        ("steps: 2.5", ["steps to 2.5", "an integer"]),
        ("steps: true", ["steps to True", "an integer"]),
        ("learning_rate: 1e-4", ["learning_rate to '1e-4'", "a number", "1.0e-4"]),
        ("check_epochs: 1", ["check_epochs to 1", "true or false"]),
        ("eval_at: [1, a]", ["eval_at to [1, 'a']", "a list of integers"]),
        ("method: Sup", ["no method Sup", "did you mean SupSup"]),
        ("sparsity: dense", ["sparsity to 'dense'", "a number"]),
        ("steps: -1\nname: x", ["steps -1: must be"]),
        ("steps: 3", ["sets no name", "name: config"]),
        ("- steps", ["does not contain settings"]),
        ("1: 2", ["does not contain settings"]),
        ("steps: [", ["is not YAML"]),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_error(config, text, words):
    with pytest.raises(UserError) as error:
        load_experiment(config(text))
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml cannot be read"):
        load_experiment(tmp_path / "nowhere.yaml")


def test_config_overrides_the_script_and_flags_override_config(parse, config):
    path = config("steps: 7\nmethod: HopSupSup\nnetwork: BNNet\nsearch: recovery\n")
    for given in ([f"--config={path}"], ["--config", path]):
        ((experiment,), said, *_) = parse("--num-tasks", 3, *given, "--attempts", 2, "--steps", 8)
        assert (
            experiment.num_tasks,
            adapter.settings_of(experiment).steps,
            adapter.settings_of(experiment).batch_size,
        ) == (
            3,
            8,
            128,
        )
        assert (adapter.settings_of(experiment).method, adapter.settings_of(experiment).attempts) == ("HopSupSup", 2)
        assert said.config == path


def test_seeds_and_sparsities_are_a_run_each(parse):
    each = parse("--seeds", 2, er_scale=(1, 32)).experiments
    assert [(adapter.settings_of(one).er_scale, one.seed) for one in each] == [(1, 0), (1, 1), (32, 0), (32, 1)]
    each = parse("--sparsity", 4, 0.5, er_scale=(1, 32)).experiments
    assert [(adapter.settings_of(one).er_scale, one.seed) for one in each] == [(4, 1), (0.5, 1)]


def test_values_of_any_setting_are_a_run_each(parse, tmp_path):
    sweep = {"network": ("LeNet", "FC1024"), "features": (25, 100)}
    request = parse("--features", 30, 40, "--log-dir", tmp_path, **sweep)
    assert [(adapter.settings_of(one).network, adapter.settings_of(one).features) for one in request.experiments] == [
        ("LeNet", 30),
        ("LeNet", 40),
        ("FC1024", 30),
        ("FC1024", 40),
    ]
    folder = launch._Places(request, False).new(request.experiments[1])
    assert folder == tmp_path / "script/seed=1~network=LeNet~features=40"
    with pytest.raises(UserError, match=r"--features has 30 twice"):
        parse("--features", 30, 30, **sweep)
    with pytest.raises(UserError, match="there is no network Lenet; did you mean LeNet"):
        parse("--network", "Lenet", **sweep)


def test_a_shared_run_is_taken_where_there_is_one(parse, tmp_path):
    digits, arguments = data.load_digits(), ["--log-dir", tmp_path]
    request = parse(*arguments)
    (experiment,) = request.experiments
    shared = launch._Places(request, shares_run=True)
    assert shared.earlier(experiment) is None
    folder = shared.new(experiment)
    write_run(folder, experiment, digits, vars(request.options))
    assert shared.earlier(experiment) == folder
    assert launch._Places(request, shares_run=False).earlier(experiment) is None

    (fewer,) = parse(*arguments, "--num-tasks", experiment.num_tasks - 1).experiments
    assert shared.earlier(fewer) is None, "a longer run has changed since"
    (longer,) = parse(*arguments, "--steps", 101).experiments
    assert shared.earlier(longer) is None, "a run of other settings is left alone, and another one begins"
    with pytest.raises(UserError, match="steps: 100 before, 101 now"):
        launch._Places(parse(*arguments, "--resume"), shares_run=True).earlier(longer)


def test_tasks_are_a_run_each(parse, tmp_path):
    arguments = ["--tasks", "2:4", "--scenario", "GG", "--network", "LeNet", "--log-dir", tmp_path]
    each = parse(*arguments, er_scale=(1, 32)).experiments
    assert [(adapter.settings_of(one).er_scale, one.first_task, one.num_tasks) for one in each] == [
        (1, 2, 1),
        (1, 3, 1),
        (32, 2, 1),
        (32, 3, 1),
    ]
    assert launch._Places(parse(*arguments), False).new(each[1]).name == "seed=1~sparsity=1~task=3"


def test_the_density_of_a_file_goes_before_those_of_the_script(parse, config):
    path = config("sparsity: 8")
    assert [adapter.settings_of(one).er_scale for one in parse("--config", path, er_scale=(1, 32)).experiments] == [8]
    assert [adapter.settings_of(one).er_scale for one in parse("--config", path).experiments] == [8]
    assert [adapter.settings_of(one).er_scale for one in parse("--config", path, "--sparsity", 1, 2).experiments] == [
        1,
        2,
    ]


def test_without_sparsities_there_is_no_flag_for_them(parse, capsys):
    with pytest.raises(UserError, match="--sparsity"):
        parse("--sparsity", 3)
    for sweep in ({}, {"er_scale": (1, 32)}):
        with pytest.raises(SystemExit):
            parse("--help", **sweep)
        shown = capsys.readouterr().out
        assert ("--sparsity S [S ...]" in shown) == bool(sweep)
        assert "er-scale" not in shown
        with pytest.raises(UserError, match="--er-scale"):
            parse("--er-scale", 3, **sweep)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sparsity"], "--sparsity has no values; give one or more, such as --sparsity 16 32"),
        (["--sparsity", "0"], "--sparsity 0: must be a positive number"),
        (["--sparsity", "inf"], "--sparsity inf: must be a positive number"),
        (["--sparsity", "2", "2.0"], "--sparsity has 2 twice"),
        (["--gpu-sets", "0", "--cluster", "local"], "give one of them"),
        (["--config"], "--config"),
        (["--tasks", "5"], "--tasks 5 names no tasks"),
        (["--tasks", "5:5"], "--tasks 5:5 names no tasks"),
        (["--tasks", "0:2"], "tasks of SupSup in scenario GNu need the earlier ones"),
        (["--coordinator", "localhost:1234"], "need each other"),
        (["--coordinator", "localhost:1234", "--hosts", "2", "--host", "2"], "give a number from 0 to 1"),
        (["--coordinator", "localhost:1234", "--hosts", "2", "--host", "0"], "several hosts are for a single run"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_clear_error(parse, arguments, words):
    with pytest.raises(UserError, match=re.escape(words)) as error:
        parse(*arguments, er_scale=(1, 32))
    assert "\n" not in str(error.value)


def test_a_run_has_a_folder_of_its_seed_and_density_and_resuming_finds_it(tmp_path, parse):
    arguments = ["--log-dir", tmp_path, "--seeds", 2]
    digits = data.load_digits()
    sparse, dense = parse(*arguments, er_scale=(0.5, 16)), parse(*arguments)
    names = []
    for request in (sparse, dense, sparse):
        for experiment in request.experiments:
            places = launch._Places(request, shares_run=True)
            folder = places.new(experiment)
            write_run(folder, experiment, digits, vars(request.options))
            names.append(str(folder.relative_to(tmp_path)))
            assert places.earlier(experiment) == folder
    assert names == [
        "script/seed=0~sparsity=0.5",
        "script/seed=1~sparsity=0.5",
        "script/seed=0~sparsity=16",
        "script/seed=1~sparsity=16",
        "script/seed=0",
        "script/seed=1",
        "script/seed=0~sparsity=0.5~try=1",
        "script/seed=1~sparsity=0.5~try=1",
        "script/seed=0~sparsity=16~try=1",
        "script/seed=1~sparsity=16~try=1",
    ]


def test_settings_start_the_run_from_anywhere(tmp_path, parse, monkeypatch):
    request = parse("--data", "data", er_scale=(16,))
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, request.experiments[0], data.load_digits(), vars(request.options))
    settings = results.read_settings(tmp_path)
    assert settings["options"]["data"] == str(tmp_path / "data")
    assert settings["experiment"]["er_scale"] == 16


def test_evaluations_beyond_the_last_task_are_said_where_the_command_line_gives_them(parse, capsys):
    parse("--eval-at", 3, 10, 12)
    assert capsys.readouterr().err.startswith("warning: --eval-at 10 12 is beyond --num-tasks 9 and is left out")
    parse("--eval-at", 3, 9)
    parse("--num-tasks", 2, experiment=adapter.changed(DENSE, eval_at=(3, 6)))  # as scripts of the paper, made shorter
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (["/lib/ipykernel_launcher.py", "-f", "/run/kernel-1.json"], []),
        (["/lib/ipykernel_launcher.py", "--f=/run/kernel-1.json"], []),
        (["/lib/colab_kernel_launcher.py", "-f", "/run/kernel-1.json", "--steps", "5"], ["--steps", "5"]),
        (["script.py", "--steps", "5"], ["--steps", "5"]),
        (["/lib/ipykernel_launcher.py", "--steps", "5"], ["--steps", "5"]),
    ],
)
def test_the_arguments_of_a_notebooks_kernel_are_not_the_scripts(monkeypatch, given, left):
    monkeypatch.setattr(sys, "argv", list(given))
    with options.arguments_of_user():
        assert sys.argv == [given[0], *left]
    assert sys.argv == given


def test_in_ipython_arguments_count_where_the_user_has_set_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=object))
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    monkeypatch.setattr(sys, "orig_argv", ["python", "/bin/ipython", "--no-banner"])
    monkeypatch.setattr(sys, "argv", ["/bin/ipython", "--no-banner"])
    with options.arguments_of_user():
        assert sys.argv == ["/bin/ipython"]
    monkeypatch.setattr(sys, "argv", ["/bin/ipython", "--steps", "5"])
    with options.arguments_of_user():
        assert sys.argv == ["/bin/ipython", "--steps", "5"]
