"""Commands that go on with runs."""

from dataclasses import dataclass
from pathlib import Path

from supsup_jax.cli import collection, launch
from supsup_jax.cli.commands.command import Command, OneRun, Runs, folders


@dataclass(frozen=True, kw_only=True)
class Collect(Command):
    """Makes one run of many that learned a task each, as --tasks has them, and evaluates it over all tasks.

    The new run stands beside the first of them; they stay as they are.
    """

    runs: Runs
    """Folder of a run, or one above several, such as runs/GG/splitimagenet/rn50-supsup; runs of several seeds and
    sparsities become a run each."""

    data: Path | None = None
    """Folder with data sets, if not the one that the runs had."""

    def run(self) -> None:
        """Makes the runs, and evaluates them.

        Raises:
            UserError: if the runs do not make one.
        """
        made = []
        with self.messages_on_stderr():
            for runs in collection.groups(folders(self.runs, "collect")):
                made.append(collection.collect(runs, self.data))
                launch.run(made[-1], self.data)
        self.print_result({"runs": [str(folder) for folder in made]}, lambda: None)


@dataclass(frozen=True, kw_only=True)
class Resume(Command):
    """Goes on with a run from its last checkpoint, on whatever machine; a run that has not begun starts.

    Everything else that decides what it computes is in its settings.yaml.
    """

    folder: OneRun
    """Folder of the run, such as runs/quickstart/seed=1."""

    data: Path | None = None
    """Folder with data sets, if not the one that the run began with."""

    def run(self) -> None:
        """Runs it to its end, and shows what came out.

        Raises:
            UserError: if the folder does not hold a run's settings.
        """
        with self.messages_on_stderr():
            launch.run(self.folder.expanduser(), self.data)
        self.print_result({"runs": [str(self.folder)]}, lambda: None)
