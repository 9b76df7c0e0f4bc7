import tomllib
from pathlib import Path

import supsup_jax

ROOT = Path(__file__).parents[2]


def test_the_version_stands_in_one_place_that_needs_no_installation():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    source = project["tool"]["hatch"]["version"]["path"]
    assert f'\n__version__ = "{supsup_jax.__version__}"\n' in (ROOT / source).read_text()


def test_the_changelog_has_this_version():
    assert f"\n## [{supsup_jax.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
