"""Commands that resume runs, and that collect runs of some of the tasks into one."""

from dataclasses import dataclass
from pathlib import Path

from supsup_jax.cli import collection, launch
from supsup_jax.cli.commands.command import Command, OneRun, Runs, folders


@dataclass(frozen=True, kw_only=True)
class Collect(Command):
    """Combine runs of some of the tasks (option --tasks of a script) into one run, and evaluate it over all tasks.

    The new run is written beside the first of the given runs, which are not changed.
    """

    runs: Runs
    """Folders of runs, or a folder that contains them, such as runs/GG/splitimagenet/rn50-supsup.
    Runs with different seeds or sparsities are combined separately."""

    data: Path | None = None
    """Folder with data sets; by default the folder that the runs used."""

    evaluate: bool = True
    """Evaluate the new run, which takes all its masks into memory; `python -m supsup_jax run` does it later."""

    def run(self) -> None:
        """Write the combined runs, and evaluate them.

        Raises:
            UserError: if the runs cannot be combined.
        """
        collected = []
        with self.messages_on_stderr():
            for runs in collection.groups(folders(self.runs, "collect")):
                collected.append(collection.collect(runs, self.data))
                if self.evaluate:
                    launch.run(collected[-1], self.data)
        names = [str(folder) for folder in collected]
        self.print_result({"runs": names}, lambda: None if self.evaluate else print(*names, sep="\n"))


@dataclass(frozen=True, kw_only=True)
class Resume(Command):
    """Resume a run from its last checkpoint, on any machine, or start it if it has no checkpoint.

    All its settings are read from its settings.yaml.
    """

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    data: Path | None = None
    """Folder with data sets; by default the folder that the run used before."""

    def run(self) -> None:
        """Run until all tasks are learned and evaluated, and print the results.

        Raises:
            UserError: if the folder does not contain a run's settings.
        """
        with self.messages_on_stderr():
            launch.run(self.folder.expanduser(), self.data)
        self.print_result({"runs": [str(self.folder)]}, lambda: None)
