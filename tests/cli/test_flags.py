"""Every flag of `stored/flags.json` exists, with the same default; there may be further flags.

`python tests/cli/test_flags.py` rewrites the file, after an intended change of a default.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the command line

import pytest

from helpers import adapter

STORED = Path(__file__).parents[1] / "stored/flags.json"


def flags_of(called: str) -> dict[str, str | None]:
    """The flags of a script, by its path below the repository, or of a command, by `-m COMMAND`."""
    return adapter.flags(*called.split())


@pytest.mark.parametrize("called", json.loads(STORED.read_text()) if STORED.exists() else [])
def test_every_flag_exists_and_has_its_default(called):
    found, expected = flags_of(called), json.loads(STORED.read_text())[called]
    assert {flag: found.get(flag, "the flag is gone") for flag in expected} == expected


if __name__ == "__main__":
    found = {called: flags_of(called) for called in adapter.CALLS}
    lines = [f"{json.dumps(called)}: {json.dumps(flags)}" for called, flags in found.items()]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
