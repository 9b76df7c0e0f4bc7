"""Flags of version 0.1, stored in `stored/flags.json`, exist with the same defaults; new flags are allowed.

After an intended change of a default, rewrite the file with `python tests/cli/test_flags.py`.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the command line

import pytest

from helpers import adapter

STORED = Path(__file__).parents[1] / "stored/flags.json"


def flags_of(called: str) -> dict[str, str | None]:
    """Return the flags of a script, given its path below the repository, or of a command, given `-m COMMAND`."""
    return adapter.flags(*called.split())


BENCHMARKS = {"PermutedMNIST": "Permuted", "RotatedMNIST": "Rotated"}
"""Renamed benchmarks: the name in version 0.1, and the family of benchmarks that replaces it."""

SCRIPT = "experiments/GNu/MNISTPerm/LeNet-250-tasks/supsup_h.py"
OF_OTHER_PARTS = {
    "--network ResNet18 --method BatchE --scenario GG": "affine no-affine dtype sync-bn no-sync-bn random-weights "
    "no-random-weights weights-learning-rate",
    "--dataset imagenet --benchmark SplitImageNet --scenario GG": "image-size cache-size coordinator hosts host",
    "--method UpperBound --scenario GG": "fine-tunes no-fine-tunes",
    "--scenario GG": "density first-task tasks tasks-at-once",
    "--scenario NNs": "check-every check-epochs no-check-epochs novelty fewest-masks most-masks",
    "--scenario GNu": "search",
    "--search binary": "log-base objective images-per-pick images-per-task",
    "--method HopSupSup --network BNNet --search recovery": "gamma recovery-learning-rate through-memory "
    "no-through-memory attempts",
    "--optimizer SGD": "momentum weight-decay",
}
"""Flags of version 0.1 that a script shows only with other parts, by the flags that select these parts."""


CHANGED = {"experiments/quickstart.py": {"--objective": "superfluous", "--images-per-pick": "4"}}
"""Defaults that differ from version 0.1, whose quickstart inferred 5 % of its tasks incorrectly."""


def defaults_of(called):
    """Return the flags of version 0.1 with their defaults."""
    defaults = json.loads(STORED.read_text())[called] | CHANGED.get(called, {})
    return {flag: BENCHMARKS.get(default, default) for flag, default in defaults.items()}


@pytest.mark.parametrize("called", json.loads(STORED.read_text()) if STORED.exists() else [])
def test_every_flag_exists_and_has_its_default(called):
    found, expected = flags_of(called), defaults_of(called)
    assert {flag: found[flag] for flag in expected if flag in found} == {
        flag: default for flag, default in expected.items() if flag in found
    }
    elsewhere = {f"--{flag}" for flags in OF_OTHER_PARTS.values() for flag in flags.split()}
    assert expected.keys() - found.keys() <= elsewhere


@pytest.mark.parametrize("arguments", OF_OTHER_PARTS)
def test_selecting_a_part_adds_its_flags(arguments):
    found, expected = adapter.flags(SCRIPT, *arguments.split()), defaults_of(SCRIPT)
    for flag in OF_OTHER_PARTS[arguments].split():
        assert found.get(f"--{flag}", "the flag is missing") == expected[f"--{flag}"], flag


def test_help_is_short(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert len(adapter.call(SCRIPT, "--help").splitlines()) <= 62


def test_help_shows_only_flags_that_affect_the_run():
    assert flags_of(SCRIPT).keys() & {"--gamma", "--image-size", "--novelty", "--momentum", "--affine"} == set()
    hopsupsup, imagenet = (
        flags_of(f"experiments/{name}.py") for name in ("GNu/SplitMNIST/hopsupsup", "GG/splitimagenet/rn50-supsup")
    )
    assert {"--gamma", "--attempts", "--momentum"} <= hopsupsup.keys() and "--image-size" not in hopsupsup
    assert {"--image-size", "--sync-bn", "--coordinator"} <= imagenet.keys() and "--gamma" not in imagenet


def test_verbose_help_explains_every_flag():
    printed = adapter.call(SCRIPT, "--help-verbose")
    for words in ("Number of outputs, including superfluous neurons", "One of SupSup", "Number of updates per task"):
        assert words in " ".join(printed.split()).replace("│ ", ""), words


if __name__ == "__main__":
    found = {called: flags_of(called) for called in adapter.CALLS}
    lines = [f"{json.dumps(called)}: {json.dumps(flags)}" for called, flags in found.items()]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
