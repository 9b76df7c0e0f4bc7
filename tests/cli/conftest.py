import runpy
import sys

import pytest

from helpers.scripts import ROOT


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """Return a function that runs a script in an empty folder and in this process, which reuses compiled programs."""
    monkeypatch.chdir(tmp_path)

    def run(script, *arguments):
        path = str(ROOT / "experiments" / script)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return run
