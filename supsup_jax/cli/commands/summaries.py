"""Commands that draw figures and print tables of the paper from the measurements of runs."""

import sys
from dataclasses import dataclass
from pathlib import Path

from supsup_jax.cli.commands.command import Command, Runs, folders
from supsup_jax.cli.console import show_imagenet, show_storage
from supsup_jax.errors import UserError
from supsup_jax.paper import figures
from supsup_jax.paper.imagenet import imagenet_rows
from supsup_jax.runs import tables
from supsup_jax.system import extras


@dataclass(frozen=True, kw_only=True)
class Plot(Command):
    """Draw the paper's figures from runs, together with the points that the paper published.

    Writes figure2.png to figure6.png and recovery.png: each figure for which there are runs. Runs of one experiment
    with different seeds are drawn as one curve, with the standard deviation over seeds as error bars.
    """

    runs: Runs
    """Folders of runs, or a folder that contains them, such as runs/GNu/MNISTPerm."""

    output: Path = Path(".")
    """Folder for the figures; or a .png, .pdf or .svg file, if the runs give a single figure."""

    def run(self) -> None:
        """Write the figures, and print their paths.

        Raises:
            UserError: if the runs or the output cannot be used; then nothing is written.
        """
        extras.require("plots", "plot")
        newest, written = [], []
        for run, *older in tables.tries(tables.read_runs(folders(self.runs, "plot"))):
            newest.append(run)
            if older and run.name in figures.SHOWN:
                sparsity = f", sparsity {run.er_scale:g}" if run.er_scale else ""
                tries = f"{1 + len(older)} runs of {run.name}, seed {run.seed}{sparsity}"
                print(f"drawing {run.folder}, the newest of {tries}", file=sys.stderr if self.json else sys.stdout)
        pictures = figures.draw_paper(newest)
        for name, path in self._paths(list(pictures)).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            figures.save(pictures[name], path)
            written.append(str(path))
        self.print_result({"pictures": written}, lambda: print(*written, sep="\n"))

    def _paths(self, names: list[str]) -> dict[str, Path]:
        """Return the path of each figure."""
        output = self.output.expanduser()
        if output.is_dir() or not output.suffix:
            return {name: output / f"{name}.png" for name in names}
        if output.suffix not in (".png", ".pdf", ".svg"):
            raise UserError(f"--output {output}: must be a .png, .pdf or .svg file, or a folder")
        if len(names) > 1:
            raise UserError(
                f"--output {output} is one file for {', '.join(names)}; give a folder, or runs of one figure"
            )
        return {names[0]: output}


@dataclass(frozen=True, kw_only=True)
class Bytes(Command):
    """Print how many bytes a run has to keep to classify images of all its tasks."""

    runs: Runs
    """Folders of runs, or a folder that contains them."""

    def run(self) -> None:
        """Print a table for each run.

        Raises:
            UserError: if the runs cannot be used.
        """
        runs = tables.read_runs(folders(self.runs, "bytes"))
        for run in runs:
            if not run.storage:
                raise UserError(
                    f"{run.folder} has no storage.csv, because an older version made it; leave this run out"
                )
        accounts = {str(run.folder): {"tasks": max(run.storage), **run.storage[max(run.storage)]} for run in runs}

        def show() -> None:
            for run in runs:
                show_storage(run)

        self.print_result(accounts, show)


@dataclass(frozen=True, kw_only=True)
class Imagenet(Command):
    """Print the table in Figure 2 (left): accuracy and bytes of runs on SplitImageNet beside the paper's."""

    runs: Runs
    """Folders of runs, or a folder that contains them, such as runs/GG/splitimagenet."""

    def run(self) -> None:
        """Print the table.

        Raises:
            UserError: if the runs cannot be used.
        """
        rows = imagenet_rows(tables.read_runs(folders(self.runs, "imagenet")))
        plain = [
            {
                "method": method,
                "sparsity": scale,
                "paper": paper and {"accuracy": paper[0], "megabytes": paper[1]},
                "own": point and point._asdict(),
            }
            for method, scale, paper, point in rows
        ]
        self.print_result(plain, lambda: show_imagenet(rows))
