import sys
import tomllib
from pathlib import Path

import pytest

from helpers.data import assert_one_line
from helpers.runs import evaluation
from supsup_jax import UserError, data
from supsup_jax.__main__ import main
from supsup_jax.runs import results
from supsup_jax.runs.records import Record
from supsup_jax.system import extras

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("extra", extras._MODULES)
def test_a_missing_module_is_reported_in_one_line_with_its_extra(extra, monkeypatch):
    assert extra in PROJECT["optional-dependencies"]
    for module in extras._MODULES[extra]:
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            assert not extras.is_installed(extra)
            with pytest.raises(UserError) as error:
                extras.require(extra, "it")
            assert_one_line(error, "it requires ", module, f"install with: pip install 'supsup_jax[{extra}]'")


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Return a function that makes the import of an installed module fail with an error of several lines."""

    def make(module):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text("raise TypeError('Descriptors cannot be\\ncreated directly.')")
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.partition(".")[0] == module]:
            monkeypatch.delitem(sys.modules, name)

    return make


@pytest.mark.parametrize(("extra", "module"), [("plots", "matplotlib"), ("tensorboard", "tensorboardX")])
def test_a_module_whose_import_fails_is_reported_in_one_line(extra, module, broken):
    broken(module)
    assert extras.is_installed(extra)
    with pytest.raises(UserError) as error:
        extras.require(extra, "it")
    assert_one_line(
        error, f"it requires {module}, which cannot be imported; repair its", "(Descriptors cannot be created"
    )
    assert ("MPLBACKEND" in str(error.value)) == (extra == "plots")


def test_a_run_continues_without_events_if_their_import_fails(broken, tmp_path, capsys):
    broken("tensorboardX")
    tables = results.Tables(tmp_path)
    tables.write(record := Record([], [evaluation(2)]), record, is_new=True)
    assert (tmp_path / "metrics.csv").exists() and not list(tmp_path.glob("events*"))
    warning = capsys.readouterr().err
    assert warning.startswith("warning: no TensorBoard events are written: ") and warning.count("\n") == 1


def test_the_extra_all_includes_every_extra_of_the_library():
    (named,) = PROJECT["optional-dependencies"]["all"]
    assert named == f"supsup_jax[{','.join(sorted(extras._MODULES))}]"


def test_data_prepared_by_tfds_requires_its_extra(tmp_path, monkeypatch):
    (tmp_path / "mnist/3.0.1").mkdir(parents=True)
    (tmp_path / "mnist/3.0.1/dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    assert_one_line(error, "mnist/3.0.1, prepared by TFDS, requires", "pip install 'supsup_jax[tfds]'")


@pytest.mark.parametrize(
    ("command", "extra", "module"),
    [(["plot", "runs"], "plots", "matplotlib"), (["export-torch", "run", "final.pt"], "torch", "torch")],
)
def test_a_command_checks_its_extra_before_it_reads_runs(command, extra, module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys, "argv", ["supsup-jax", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(f"error: {command[0]} requires {module}") and f"'supsup_jax[{extra}]'" in error
    assert error.count("\n") == 1
