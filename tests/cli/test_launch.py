import io
import re
import sys
import types
from dataclasses import dataclass

import pytest
from flax import linen as nn

import supsup_jax as ss
from helpers import adapter
from supsup_jax import UserError, data, networks
from supsup_jax.cli import flags, launch, options
from supsup_jax.runs import results
from supsup_jax.runs.settings import load_experiment, write_run

DENSE = adapter.experiment("script", "digits", num_tasks=9, steps=100)


@pytest.fixture
def parse(monkeypatch):
    """Return a function that parses a command line with the script's experiment."""

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
        ((experiment,), parsed, *_) = parse("--num-tasks", 3, *given, "--attempts", 2, "--steps", 8)
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
        assert parsed.config == path


def test_each_combination_of_seed_and_sparsity_is_a_run(parse):
    experiments = parse("--seeds", 2, er_scale=(1, 32)).experiments
    expected = [(1, 0), (1, 1), (32, 0), (32, 1)]
    assert [(adapter.settings_of(experiment).er_scale, experiment.seed) for experiment in experiments] == expected
    experiments = parse("--sparsity", 4, 0.5, er_scale=(1, 32)).experiments
    assert [(adapter.settings_of(experiment).er_scale, experiment.seed) for experiment in experiments] == [
        (4, 1),
        (0.5, 1),
    ]


def test_each_combination_of_swept_settings_is_a_run(parse, tmp_path):
    sweep = {"network": ("LeNet", "FC1024"), "features": (25, 100)}
    request = parse("--features", 30, 40, "--log-dir", tmp_path, **sweep)
    settings = map(adapter.settings_of, request.experiments)
    assert [(values.network, values.features) for values in settings] == [
        ("LeNet", 30),
        ("LeNet", 40),
        ("FC1024", 30),
        ("FC1024", 40),
    ]
    folder = launch._RunFolders(request, False).new(request.experiments[1])
    assert folder == tmp_path / "script/seed=1~network=LeNet~features=40"
    with pytest.raises(UserError, match=r"--features: 30 is repeated"):
        parse("--features", 30, 30, **sweep)
    with pytest.raises(UserError, match="there is no network Lenet; did you mean LeNet"):
        parse("--network", "Lenet", **sweep)


def test_an_existing_shared_run_is_used(parse, tmp_path):
    digits, arguments = data.load_digits(), ["--log-dir", tmp_path]
    request = parse(*arguments)
    (experiment,) = request.experiments
    shared = launch._RunFolders(request, shares_run=True)
    assert shared.earlier(experiment) is None
    folder = shared.new(experiment)
    write_run(folder, experiment, digits, vars(request.options))
    assert shared.earlier(experiment) == folder
    assert launch._RunFolders(request, shares_run=False).earlier(experiment) is None

    (fewer,) = parse(*arguments, "--num-tasks", experiment.num_tasks - 1).experiments
    assert shared.earlier(fewer) is None, "a run with more tasks must not be used"
    (longer,) = parse(*arguments, "--steps", 101).experiments
    assert shared.earlier(longer) is None, "a run with other settings must not be used"
    with pytest.raises(UserError, match="steps: 100 before, 101 now"):
        launch._RunFolders(parse(*arguments, "--resume"), shares_run=True).earlier(longer)


def test_each_task_of_the_option_tasks_is_a_run(parse, tmp_path):
    arguments = ["--tasks", "2:4", "--scenario", "GG", "--network", "LeNet", "--log-dir", tmp_path]
    each = parse(*arguments, er_scale=(1, 32)).experiments
    assert [(adapter.settings_of(run).er_scale, run.first_task, run.num_tasks) for run in each] == [
        (1, 2, 1),
        (1, 3, 1),
        (32, 2, 1),
        (32, 3, 1),
    ]
    assert launch._RunFolders(parse(*arguments), False).new(each[1]).name == "seed=1~sparsity=1~task=3"


def test_several_tasks_of_the_option_tasks_are_a_run(parse):
    each = parse("--tasks", "2:9:3", "--scenario", "GG").experiments
    assert [(run.first_task, run.num_tasks) for run in each] == [(2, 3), (5, 3), (8, 1)]
    assert len(parse("--tasks", "0:1000000:10000", "--scenario", "GG").experiments) == 100


def test_the_sparsity_of_a_file_replaces_the_sparsities_of_the_script(parse, config):
    def scales(*arguments, **sweep):
        return [adapter.settings_of(experiment).er_scale for experiment in parse(*arguments, **sweep).experiments]

    path = config("sparsity: 8")
    assert scales("--config", path, er_scale=(1, 32)) == [8]
    assert scales("--config", path) == [8]
    assert scales("--config", path, "--sparsity", 1, 2) == [1, 2]


def test_only_sweeps_over_sparsities_have_the_flag_sparsity(parse, capsys):
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
        (["--sparsity"], "--sparsity has no values; give at least one, such as --sparsity 16 32"),
        (["--sparsity", "0"], "--sparsity 0: must be a positive number"),
        (["--sparsity", "inf"], "--sparsity inf: must be a positive number"),
        (["--sparsity", "2", "2.0"], "--sparsity: 2 is repeated"),
        (["--gpu-sets", "0", "--cluster", "local"], "give one of them"),
        (["--config"], "--config"),
        (["--learned-in", "runs/a/seed=1"], "--learned-in is for a single run on one host; give one seed"),
        (["--tasks", "5"], "--tasks 5: must be FIRST:STOP"),
        (["--tasks", "5:5"], "--tasks 5:5: must be FIRST:STOP with FIRST < STOP"),
        (["--tasks", "0:8:0"], "--tasks 0:8:0: must be FIRST:STOP:SIZE with SIZE > 0"),
        (["--tasks", "8:0:2"], "--tasks 8:0: must be FIRST:STOP with FIRST < STOP"),
        (
            ["--tasks", "0:1000000"],
            "1000000 runs are too many; learn several tasks in each, such as --tasks 0:1000000:10",
        ),
        (["--tasks", "0:2"], "tasks of SupSup in scenario GNu need the earlier ones"),
        (["--coordinator", "localhost:1234"], "must be given together"),
        (["--coordinator", "localhost:1234", "--hosts", "2", "--host", "2"], "--host 2: must be from 0 to 1"),
        (["--coordinator", "localhost:1234", "--hosts", "2", "--host", "0"], "can share only a single run"),
    ],
)
def test_an_invalid_request_raises_one_clear_error(parse, arguments, words):
    with pytest.raises(UserError, match=re.escape(words)) as error:
        parse(*arguments, er_scale=(1, 32))
    assert "\n" not in str(error.value)


def test_config_accepts_the_settings_of_a_run(tmp_path, parse):
    ran = parse("--steps", 7, "--seed", 3, er_scale=(16,))
    write_run(tmp_path, ran.experiments[0], data.load_digits(), vars(ran.options))
    path = tmp_path / "settings.yaml"
    assert parse("--config", path, er_scale=(1, 32)).experiments == ran.experiments
    assert adapter.settings_of(parse("--config", path, "--seed", 4).experiments[0]).seed == 4
    path.write_text(path.read_text().replace("steps: 7", "stpes: 7"))
    with pytest.raises(UserError, match=r"settings\.yaml sets stpes, which does not exist; did you mean steps"):
        parse("--config", path)


def test_errors_have_no_frame_on_terminals_without_utf8(parse, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    for arguments in (("--num-tasks", "2.0"), ("--num-taks", "2")):
        with pytest.raises(UserError) as error:
            parse(*arguments)
        assert "--num-tasks" in str(error.value) and not re.search("---|[|─│]", str(error.value))


def test_run_folders_are_named_by_seed_and_sparsity_and_found_again(tmp_path, parse):
    arguments = ["--log-dir", tmp_path, "--seeds", 2]
    digits = data.load_digits()
    sparse, dense = parse(*arguments, er_scale=(0.5, 16)), parse(*arguments)
    names = []
    for request in (sparse, dense, sparse):
        for experiment in request.experiments:
            folders = launch._RunFolders(request, shares_run=True)
            folder = folders.new(experiment)
            write_run(folder, experiment, digits, vars(request.options))
            names.append(str(folder.relative_to(tmp_path)))
            assert folders.earlier(experiment) == folder
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


def test_written_settings_have_absolute_paths(tmp_path, parse, monkeypatch):
    request = parse("--data", "data", er_scale=(16,))
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, request.experiments[0], data.load_digits(), vars(request.options))
    settings = results.read_settings(tmp_path)
    assert settings["options"]["data"] == str(tmp_path / "data")
    assert settings["experiment"]["er_scale"] == 16


def test_several_hosts_are_refused_before_they_wait_for_each_other(parse, monkeypatch):
    with pytest.raises(UserError, match="only experiments with --dataset imagenet can run on several hosts"):
        parse("--coordinator", "node1:1234", "--hosts", 2, "--host", 0)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(UserError, match="with --seeds and --cluster slurm"):
        parse()


def test_flag_eval_at_beyond_the_last_task_gives_a_warning(parse, capsys):
    parse("--eval-at", 3, 10, 12)
    assert capsys.readouterr().err.startswith("warning: --eval-at 10 12 is greater than --num-tasks 9 and is ignored")
    parse("--eval-at", 3, 9)
    parse("--num-tasks", 2, experiment=adapter.changed(DENSE, eval_at=(3, 6)))  # a shortened script of the paper
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["/lib/ipykernel_launcher.py", "-f", "/run/kernel-1.json"], []),
        (["/lib/ipykernel_launcher.py", "--f=/run/kernel-1.json"], []),
        (["/lib/colab_kernel_launcher.py", "-f", "/run/kernel-1.json", "--steps", "5"], ["--steps", "5"]),
        (["script.py", "--steps", "5"], ["--steps", "5"]),
        (["/lib/ipykernel_launcher.py", "--steps", "5"], ["--steps", "5"]),
    ],
)
def test_arguments_of_a_notebook_kernel_are_removed(monkeypatch, given, expected):
    monkeypatch.setattr(sys, "argv", list(given))
    with options.arguments_of_user():
        assert sys.argv == [given[0], *expected]
    assert sys.argv == given


@pytest.mark.parametrize("added", [[], ["--steps", "5"]])
def test_all_arguments_that_a_kernel_was_started_with_are_removed(monkeypatch, added):
    started = ["-f", "/run/kernel-1.json", "--HistoryManager.hist_file=:memory:"]
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "ipykernel_launcher", *started])
    monkeypatch.setattr(sys, "argv", ["/lib/ipykernel_launcher.py", *started, *added])
    with options.arguments_of_user():
        assert sys.argv[1:] == added


def test_in_ipython_only_arguments_set_by_the_user_are_kept(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=object))
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    monkeypatch.setattr(sys, "orig_argv", ["python", "/bin/ipython", "--no-banner"])
    monkeypatch.setattr(sys, "argv", ["/bin/ipython", "--no-banner"])
    with options.arguments_of_user():
        assert sys.argv == ["/bin/ipython"]
    monkeypatch.setattr(sys, "argv", ["/bin/ipython", "--steps", "5"])
    with options.arguments_of_user():
        assert sys.argv == ["/bin/ipython", "--steps", "5"]


@dataclass(frozen=True)
class Linear(networks.Network):
    """A network whose fields have other names and types than those of the package."""

    outputs: int = 10
    input_shape: tuple[int, ...] = (8, 8, 1)
    initializer: networks.InitializerName = "signed_constant"

    @property
    def module(self):
        return FlatLinear(self.outputs)


class FlatLinear(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.outputs, use_bias=False)(x.reshape(len(x), -1))


@pytest.mark.filterwarnings("ignore:The field .*initializer:UserWarning")  # of tyro: the default is a function
def test_an_error_about_outputs_names_no_flag_that_the_network_lacks(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["script.py", "--outputs", "2"])
    experiment = ss.Experiment(name="mine", tasks=data.Permuted(data.Digits(), num_tasks=2), network=Linear())
    with pytest.raises(SystemExit) as ended:
        ss.main(experiment, "A script.")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: network Linear has 2 outputs: must be at least the 10 classes of a task\n"
    assert not list(tmp_path.iterdir())
