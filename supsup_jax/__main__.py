"""What there is to do with runs on disk: `python -m supsup_jax COMMAND`."""

import tyro

from supsup_jax.cli.commands import COMMANDS
from supsup_jax.cli.launch import ends_in_one_line
from supsup_jax.cli.options import complaints_as_errors
from supsup_jax.system import backend


@ends_in_one_line()
def main() -> None:
    """Does what the command line says."""
    with complaints_as_errors():
        command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m supsup_jax", description=__doc__)
    backend.use_one_blas_thread()
    backend.keep_compiled()
    command.run()


if __name__ == "__main__":
    main()
