"""Work with runs on disk: `supsup-jax COMMAND`. `supsup-jax quickstart` trains a first run in under a minute.

`supsup-jax --version` prints the version.
"""

import sys
from pathlib import Path

from supsup_jax import __version__
from supsup_jax.cli.launch import errors_in_one_line
from supsup_jax.cli.script import call


@errors_in_one_line()
def main() -> None:
    """Run the command given on the command line."""
    if sys.argv[1:] == ["--version"]:
        print(f"supsup_jax {__version__}")
    elif sys.argv[1:2] == ["quickstart"]:
        from supsup_jax.cli import quickstart

        quickstart.command()
    else:
        call("supsup-jax" if Path(sys.argv[0]).stem == "supsup-jax" else "python -m supsup_jax", __doc__)


if __name__ == "__main__":
    main()
