"""What there is to do with runs on disk: `python -m supsup_jax COMMAND`."""

from supsup_jax.cli.launch import ends_in_one_line
from supsup_jax.cli.script import call


@ends_in_one_line()
def main() -> None:
    """Does what the command line says."""
    call("python -m supsup_jax", __doc__)


if __name__ == "__main__":
    main()
