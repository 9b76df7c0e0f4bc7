"""What there is to do with runs on disk: `python -m supsup_jax COMMAND`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from supsup_jax import figures, tables
from supsup_jax.errors import UserError
from supsup_jax.launch import complaints_as_errors, ends_in_one_line


@dataclass(frozen=True)
class Plot:
    """Draws the paper's figures from runs, over the points that the paper published.

    Writes figure4.png, figure5.png, figure6.png and recovery.png, as far as there are runs for them. Runs of one
    experiment with several seeds become one curve, with the standard deviation over seeds as bars.
    """

    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN...", help_behavior_hint="(at least one)"),
    ]
    """Folder of a run, or one above several, such as runs/GNu/MNISTPerm: all runs below it are drawn."""

    output: Path = Path(".")
    """Folder for the pictures; or a file, .png, .pdf or .svg, if there is one picture only."""

    def run(self) -> None:
        """Writes the pictures, and prints the path of each.

        Raises:
            UserError: if the runs or the output cannot be used; then nothing is written.
        """
        if not self.runs:
            raise UserError("plot needs runs; give the folder of a run, or one above several")
        newest = []
        for run, *older in tables.tries(tables.read_runs(path.expanduser() for path in self.runs)):
            newest.append(run)
            if older and run.name in figures.SHOWN:
                tries = f"{1 + len(older)} runs of {run.name}, seed {run.seed}"
                print(f"{run.folder} is drawn, the newest of {tries}")
        pictures = figures.draw_paper(newest)
        for name, path in self._paths(list(pictures)).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            figures.save(pictures[name], path)
            print(path)

    def _paths(self, names: list[str]) -> dict[str, Path]:
        """Where each picture goes."""
        output = self.output.expanduser()
        if output.is_dir() or not output.suffix:
            return {name: output / f"{name}.png" for name in names}
        if output.suffix not in (".png", ".pdf", ".svg"):
            raise UserError(f"--output {output} is no picture; give a .png, .pdf or .svg file, or a folder")
        if len(names) > 1:
            raise UserError(
                f"--output {output} is one file for {', '.join(names)}; give a folder, or runs of one figure"
            )
        return {names[0]: output}


COMMANDS = {"plot": Plot}


@ends_in_one_line()
def main() -> None:
    """Does what the command line says."""
    with complaints_as_errors():
        command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m supsup_jax", description=__doc__)
    command.run()


if __name__ == "__main__":
    main()
