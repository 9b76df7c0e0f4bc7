"""What there is to do with runs on disk: `python -m supsup_jax COMMAND`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from supsup_jax import collection, figures, launch, tables
from supsup_jax.console import show_imagenet, show_storage
from supsup_jax.errors import UserError
from supsup_jax.launch import ends_in_one_line
from supsup_jax.options import complaints_as_errors

_Runs = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...", help_behavior_hint="(at least one)")
]


def _folders(runs: tuple[Path, ...], command: str) -> list[Path]:
    """The runs that a command was given.

    Raises:
        UserError: if it was given none.
    """
    if not runs:
        raise UserError(f"{command} needs runs; give the folder of a run, or one above several")
    return [run.expanduser() for run in runs]


@dataclass(frozen=True)
class Plot:
    """Draws the paper's figures from runs, over the points that the paper published.

    Writes figure3.png, figure4.png, figure5.png, figure6.png and recovery.png, as far as there are runs for them. Runs
    of one experiment with several seeds become one curve, with the standard deviation over seeds as bars.
    """

    runs: _Runs
    """Folder of a run, or one above several, such as runs/GNu/MNISTPerm: all runs below it are drawn."""

    output: Path = Path(".")
    """Folder for the pictures; or a file, .png, .pdf or .svg, if there is one picture only."""

    def run(self) -> None:
        """Writes the pictures, and prints the path of each.

        Raises:
            UserError: if the runs or the output cannot be used; then nothing is written.
        """
        newest = []
        for run, *older in tables.tries(tables.read_runs(_folders(self.runs, "plot"))):
            newest.append(run)
            if older and run.name in figures.SHOWN:
                sparsity = f", sparsity {run.er_scale:g}" if run.er_scale else ""
                tries = f"{1 + len(older)} runs of {run.name}, seed {run.seed}{sparsity}"
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


@dataclass(frozen=True)
class Bytes:
    """Counts the bytes that runs have to keep in order to classify images of all their tasks."""

    runs: _Runs
    """Folder of a run, or one above several."""

    def run(self) -> None:
        """Prints a table for each run.

        Raises:
            UserError: if the runs cannot be used.
        """
        runs = tables.read_runs(_folders(self.runs, "bytes"))
        for run in runs:
            if not run.storage:
                raise UserError(f"{run.folder} has no storage.csv, as older runs; give folders without this run")
        for run in runs:
            show_storage(run)


@dataclass(frozen=True)
class Imagenet:
    """Prints the table of Figure 3, left: accuracy and bytes of runs on SplitImageNet beside the paper's."""

    runs: _Runs
    """Folder of a run, or one above several, such as runs/GG/splitimagenet."""

    def run(self) -> None:
        """Prints the table.

        Raises:
            UserError: if the runs cannot be used.
        """
        show_imagenet(tables.imagenet_rows(tables.read_runs(_folders(self.runs, "imagenet"))))


@dataclass(frozen=True)
class Collect:
    """Makes one run of many that learned a task each, as --tasks has them, and evaluates it over all tasks.

    The new run stands beside the first of them; they stay as they are.
    """

    runs: _Runs
    """Folder of a run, or one above several, such as runs/GG/splitimagenet/rn50-supsup; runs of several seeds and
    sparsities become a run each."""

    data: Path | None = None
    """Folder with data sets, if not the one that the runs had."""

    def run(self) -> None:
        """Makes the runs, and evaluates them.

        Raises:
            UserError: if the runs do not make one.
        """
        for runs in collection.groups(_folders(self.runs, "collect")):
            launch.run(collection.collect(runs, self.data), self.data)


@dataclass(frozen=True)
class Run:
    """Goes on with a run from its last checkpoint, on whatever machine; a run that has not begun starts.

    Everything else that decides what it computes is in its settings.yaml.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run, such as runs/quickstart/seed=1."""

    data: Path | None = None
    """Folder with data sets, if not the one that the run began with."""

    def run(self) -> None:
        """Runs it to its end, and shows what came out.

        Raises:
            UserError: if the folder does not hold a run's settings.
        """
        launch.run(self.folder.expanduser(), self.data)


COMMANDS = {"bytes": Bytes, "collect": Collect, "imagenet": Imagenet, "plot": Plot, "run": Run}


@ends_in_one_line()
def main() -> None:
    """Does what the command line says."""
    with complaints_as_errors():
        command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m supsup_jax", description=__doc__)
    command.run()


if __name__ == "__main__":
    main()
