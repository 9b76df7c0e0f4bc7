import re
import tomllib
from pathlib import Path

import yaml

import supsup_jax

ROOT = Path(__file__).parents[2]


def test_the_version_is_defined_once_and_read_without_installation():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    source = project["tool"]["hatch"]["version"]["path"]
    assert f'\n__version__ = "{supsup_jax.__version__}"\n' in (ROOT / source).read_text()


def test_the_changelog_has_this_version():
    assert f"\n## [{supsup_jax.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_ruff_has_one_version():
    (pinned,) = re.findall(r"^ruff==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert f"rev: v{pinned} " in (ROOT / ".pre-commit-config.yaml").read_text()


def test_the_workflow_runs_the_oldest_and_the_newest_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    classified = [line.rpartition(" ")[2] for line in project["classifiers"] if line.startswith("Programming Language")]
    versions = [version for version in classified if "." in version]
    versions.sort(key=lambda version: int(version.split(".")[1]))
    assert project["requires-python"] == f">={versions[0]}"
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["run"]["strategy"]["matrix"]["python"] == [versions[0], versions[-1]]
