import ast
import json
import os
import re
from pathlib import Path

import matplotlib.font_manager  # importing it finds the fonts
import nbclient
import nbformat
import pytest

DATA = os.environ.get("SUPSUP_DATA")
TUTORIAL = Path(__file__).parents[2] / "experiments/tutorial.ipynb"


def streams(notebook):
    return {output.name for cell in notebook.cells for output in cell.get("outputs", []) if "name" in output}


def summary(notebook):
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    return ast.literal_eval(last.outputs[-1].data["text/plain"])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the notebook in a fresh kernel, for a user who has an empty home and no accelerator."""
    for variable in ("HOME", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("SUPSUP_DATA", raising=False)
    # Where no fonts are known yet, looking for them takes seconds, and matplotlib says so on stderr.
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())

    def in_kernel():
        notebook = nbformat.read(TUTORIAL, as_version=4)
        where = {"metadata": {"path": tmp_path}}
        return nbclient.NotebookClient(notebook, kernel_name="python3", timeout=600, resources=where).execute()

    return in_kernel


@pytest.mark.thorough
def test_the_tutorial_learns_and_infers_tasks(run, monkeypatch):
    # On MNIST, where it is at hand, what the original reached; else on the digits, which need no download.
    if on_mnist := DATA is not None:
        monkeypatch.setenv("SUPSUP_DATA", DATA)
    notebook = run()
    results = summary(notebook)
    assert results["data"] == ("MNIST" if on_mnist else "digits")
    assert results["accuracy untrained"] < (0.2 if on_mnist else 0.05)
    assert results["accuracy given"] > (0.92 if on_mnist else 0.95)
    assert results["inferred right"] == 1 if on_mnist else results["inferred right"] > 0.95
    assert streams(notebook) == {"stdout"}


def test_the_stored_outputs_are_those_of_mnist_and_name_no_machine():
    """The notebook stays small as well."""
    text = TUTORIAL.read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert len(text) < 300_000
    assert summary(notebook)["data"] == "MNIST"
    assert streams(notebook) == {"stdout"}
    assert set(notebook.metadata.kernelspec.values()) == {"python", "python3", "Python 3"}
    assert not any(cell.metadata for cell in notebook.cells)
    printed = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert not re.search(r"/(home|root|tmp|usr)/", printed)


def test_what_the_tutorial_links_to_exists():
    cells = nbformat.read(TUTORIAL, as_version=4).cells
    prose = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\((?!http)([^)]+)\)", prose):
        assert (TUTORIAL.parent / link).exists(), link
