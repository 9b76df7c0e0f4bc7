import ast
import json
import re
from pathlib import Path

import matplotlib.font_manager  # importing it finds the fonts
import nbclient
import nbformat
import pytest

TUTORIAL = Path(__file__).parents[2] / "experiments/tutorial.ipynb"


def streams(notebook):
    return {output.name for cell in notebook.cells for output in cell.get("outputs", []) if "name" in output}


def summary(notebook):
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    return ast.literal_eval(last.outputs[-1].data["text/plain"])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs the notebook in a new kernel, with an empty home folder and on the CPU."""
    for variable in ("HOME", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("SUPSUP_DATA", raising=False)
    # Without a font cache, Matplotlib searches for fonts for seconds and prints a message to stderr.
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())

    def in_kernel():
        notebook = nbformat.read(TUTORIAL, as_version=4)
        where = {"metadata": {"path": tmp_path}}
        return nbclient.NotebookClient(notebook, kernel_name="python3", timeout=600, resources=where).execute()

    return in_kernel


@pytest.mark.thorough
def test_the_tutorial_learns_and_infers_tasks_of_digits(run):
    notebook = run()
    results = summary(notebook)
    assert results["data"] == "digits"
    assert results["accuracy untrained"] < 0.05
    assert results["accuracy given"] > 0.95
    assert results["inferred right"] > 0.95
    assert streams(notebook) == {"stdout"}


@pytest.mark.long
def test_the_tutorial_reaches_the_original_s_accuracy_on_mnist(run, data_folder, monkeypatch):
    monkeypatch.setenv("SUPSUP_DATA", str(data_folder))
    results = summary(run())
    assert results["data"] == "MNIST"
    assert results["accuracy untrained"] < 0.2
    assert results["accuracy given"] > 0.92
    assert results["inferred right"] == 1


def test_the_stored_outputs_are_of_mnist_and_contain_no_machine_paths():
    """The notebook also stays small."""
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


def test_the_links_of_the_tutorial_exist():
    cells = nbformat.read(TUTORIAL, as_version=4).cells
    prose = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\((?!http)([^)]+)\)", prose):
        assert (TUTORIAL.parent / link).exists(), link
