"""The pages of the documentation: their code runs, and the files, flags and modules in them exist.

The Python blocks of a page run in order in an empty folder, as do the commands below a line `<!-- run -->`. A block
below `<!-- not run -->` requires data or files that the tests do not have.
"""

import contextlib
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from helpers import adapter
from supsup_jax.__main__ import main
from supsup_jax.cli import advice
from supsup_jax.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
NAMES = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES]
TEXTS = dict(zip(NAMES, (page.read_text() for page in PAGES), strict=True))


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the comment above each block of code (or ""), its language, and the code."""
    yield from re.findall(r"(?:<!-- ([\w ]+) -->\n)?^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def commands(text: str) -> list[str]:
    """Return the lines of all shell blocks."""
    return [line for _, language, code in blocks(text) if language == "bash" for line in code.splitlines()]


def flags_of(command: str) -> set[str]:
    """Return the flags in the output of `python -m supsup_jax COMMAND --help`."""
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        tyro.cli(COMMANDS[command], args=["--help"])
    return set(re.findall(r"--[a-z-]+", text.getvalue()))


def check_library(names: dict[str, Any]) -> None:
    assert (names["learned"].accuracy[:, -1] > 0.9).all()
    assert (np.asarray(names["inferred"]) == np.repeat(np.arange(5), 20)).mean() > 0.9
    assert (names["measured"].given > 0.9).all()
    assert (names["learned_on_devices"].accuracy[:, -1] > 0.8).all()
    assert names["used"].tolist() == [0] * 10


def check_start(names: dict[str, Any]) -> None:
    assert (names["predicted"].tasks == 3).mean() > 0.9
    assert (names["predicted"].labels == names["digits"].test.labels).mean() > 0.85


def check_runs(names: dict[str, Any]) -> None:
    assert (names["given"].labels == names["digits"].test.labels[:256]).mean() > 0.85


def check_own_data(names: dict[str, Any]) -> None:
    assert (names["inferred"] == np.repeat([0, 1], 200)).mean() > 0.98
    assert (names["predicted"].labels[-3:] == names["names"][-3:]).all()


def check_known(names: dict[str, Any]) -> None:
    assert (names["predicted"].tasks == -1).mean() > 0.5
    assert names["calibration"].error < names["calibration"].error_before


RESULTS = {
    "add_a_dataset.md": check_own_data,
    "index.md": check_start,
    "known.md": check_known,
    "library.md": check_library,
    "runs.md": check_runs,
}
"""Checks of the variables after the code of a page has run."""

WITH_CODE = [name for name in NAMES if any(language == "python" for _, language, _ in blocks(TEXTS[name]))]


@pytest.mark.thorough
@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Data classes look up the module in which they are defined.
    module = type(sys)("docs_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for mark, language, code in blocks(TEXTS[name]):
        if language == "python" and mark != "not run":
            exec(compile(code, name, "exec"), vars(module))
        elif language == "bash" and mark == "run":
            for line in code.splitlines():
                python, _, package, *arguments = line.split()
                assert (python, package) == ("python", "supsup_jax"), line
                monkeypatch.setattr(sys, "argv", [package, *arguments])
                main()
    RESULTS.get(name, lambda names: None)(vars(module))


@pytest.mark.parametrize("name", NAMES)
def test_the_links_of_a_page_exist(name):
    page = ROOT / "docs" / name
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", TEXTS[name]):
        target = link.partition("#")[0]
        assert not target or (page.parent / target).is_file(), link


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_page_exist(name):
    stored = json.loads((ROOT / "tests/stored/flags.json").read_text())
    of_scripts = {flag for flags in stored.values() for flag in flags} | {"--base-weights", "--ntasks-per-node"}
    for line in commands(TEXTS[name]):
        flags = set(re.findall(r"(?<= )--[a-z-]+", line))
        if command := re.search(r"python -m supsup_jax (\S+)", line):
            assert flags <= flags_of(command[1]), line
        elif guide := re.search(r"python (add_a_\w+\.py)(?: (\w+) runs/)?", line):
            text = (ROOT / "docs/guides" / guide[1]).read_text()
            of_guide = {f"--{field}" for field in re.findall(r"^    (\w+): (?:int|float) = ", text, re.M)}
            assert flags <= (flags_of(guide[2]) if guide[2] else of_scripts | of_guide), line
        elif script := re.search(r"python (\S+\.py) ?([^&|>\\]*)", line):
            assert (ROOT / script[1]).is_file(), line
            if script[1].startswith("benchmarks/"):
                assert all(f'"{flag}"' in (ROOT / script[1]).read_text() for flag in flags), line
            elif not flags <= of_scripts:  # flags of parts that the line selects
                assert flags <= adapter.flags(script[1], *shlex.split(script[2])).keys(), line


def test_the_reference_has_every_public_name_of_the_package():
    import supsup_jax

    shown = "\n".join(text for name, text in TEXTS.items() if name.startswith("api/"))
    for name in set(supsup_jax.__all__) - {"__version__"}:
        assert f"`ss.{name}`" in shown, name


def test_every_module_of_the_reference_exists():
    for name, text in TEXTS.items():
        for module in re.findall(r"^::: (\S+)$", text, re.M):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), f"{name}: {module}"


def test_sections_linked_from_the_program_and_the_readme_exist():
    """Links between pages are checked by `mkdocs build --strict`."""
    links = re.findall(r"blob/main/(docs/[\w./-]+#[\w-]+)", (ROOT / "README.md").read_text())
    for link in (advice.DOCS, *links):
        page, _, anchor = link.partition("#")
        headings = re.findall("^#+ (.*)$", (ROOT / page).read_text(), re.M)
        assert anchor in {re.sub(r"[^a-z0-9-]", "", heading.lower().replace(" ", "-")) for heading in headings}, link


def test_the_pages_load_no_files_from_other_sites():
    for line in (ROOT / "mkdocs.yml").read_text().splitlines():
        if "assets/" in line:
            assert (ROOT / "docs" / line.strip(" -")).is_file(), line
    for name, text in TEXTS.items():
        assert not re.search(r"!\[[^]]*\]\(http|<script|<img", text), name
        assert "![](" not in text, f"{name}: a picture without a description"


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"\b[\w/]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == NAMES
