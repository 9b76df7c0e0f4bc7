"""The command that compares runs with the paper's numbers, and makes the missing runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from supsup_jax.cli.commands.command import Command
from supsup_jax.errors import UserError
from supsup_jax.paper import drawing, figures, keeping, reproducing, reproduction, scripts
from supsup_jax.paper.planning import parse_budget, select
from supsup_jax.runs import tables
from supsup_jax.runs.tables import Run
from supsup_jax.system import atomic, extras

_MOST_SEEDS = 1000

# File descriptor of stderr.
_STDERR = 2

# Options that require --run or --plan.
_OPTIONS_FOR_MAKING_RUNS = ("data", "budget", "only", "seeds", "figures")


@dataclass(frozen=True, kw_only=True)
class Reproduce(Command):
    """Write tables that compare runs with every number of the paper.

    Each row has command, seeds, time, machine and commit. With --run, the missing runs are made first, from the
    shortest to the longest; after an interruption, the same command resumes.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")] = ()
    """Folders of runs, or folders that contain them, such as runs. Without any, every number is listed as not run.
    With --run or --plan: the folder for new runs, then folders of earlier ones."""

    output: Path | None = None
    """Markdown file to write; by default the tables are printed, or written to REPRODUCE.md with --run."""

    make_runs: Annotated[bool, tyro.conf.arg(name="run"), tyro.conf.FlagCreatePairsOff] = False
    """Make the missing runs with the scripts in experiments."""

    keep: Path | None = None
    """Folder for copies of the runs' tables, without checkpoints. `reproduce` and `plot` read them like the runs."""

    plan: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print which runs --run would make and how long they would take; make none."""

    data: Path | None = None
    """With --run or --plan: folder with data sets, by default ~/data.
    Nothing is downloaded: experiments without their data set are skipped."""

    budget: str | None = None
    """With --run or --plan: time limit for all runs together, such as 8h, 45m or 90s.
    A run that would take longer is shortened or skipped. At the limit, learned tasks are saved."""

    only: tuple[str, ...] | None = None
    """With --run or --plan: scripts or folders of scripts, such as GNu/MNISTPerm; by default all."""

    seeds: int | None = None
    """With --run or --plan: run every experiment with seeds 0 to N-1; by default with the script's seed only."""

    figures: Path | None = None
    """With --run: folder for the figures, which are drawn after each run; by default the folder of the runs."""

    def run(self) -> None:
        """Write the tables, and make missing runs with `--run`.

        Raises:
            SystemExit: with status 1 if a run failed.
            UserError: if an argument or the runs cannot be used.
        """
        if self.keep and self.plan:
            raise UserError("--keep cannot be combined with --plan, which makes no runs; leave one of them out")
        if self.make_runs or self.plan:
            self._make_runs(self._request())
            return
        for name in _OPTIONS_FOR_MAKING_RUNS:
            if getattr(self, name) is not None:
                raise UserError(f"--{name} requires --run or --plan")
        runs = tables.read_runs([folder.expanduser() for folder in self.runs])
        text = reproduction.table(runs)
        self._prepare_copies()
        if self.output:
            atomic.write(self.output.expanduser(), text)
        self._keep(runs)
        self.print_result({"markdown": text}, lambda: print(self.output or text.rstrip()))

    def _request(self) -> reproducing.Request:
        """Return the request that the arguments describe.

        Raises:
            UserError: if an argument cannot be used.
        """
        if not self.runs:
            raise UserError("--run and --plan require a folder for the runs, such as: reproduce runs --run")
        if self.seeds is not None and not 1 <= self.seeds <= _MOST_SEEDS:
            raise UserError(f"--seeds {self.seeds}: must be from 1 to {_MOST_SEEDS}")
        data = (self.data or Path("~/data")).expanduser()
        if not data.is_dir():
            raise UserError(f"--data {data} is not a folder; give the folder with data sets")
        runs, *earlier = (folder.expanduser() for folder in self.runs)
        for folder in (runs, self.figures):
            if folder and folder.expanduser().exists() and not folder.expanduser().is_dir():
                raise UserError(f"{folder} is not a folder; give a folder for the runs or figures")
        for folder in earlier:
            if not folder.is_dir() and (self.keep is None or folder != self.keep.expanduser()):
                raise UserError(f"{folder} is not a folder; give folders of earlier runs after the one for new runs")
        if self.only == ():
            raise UserError("--only has no value; give scripts or folders of scripts, such as --only GNu/MNISTPerm")
        if self.make_runs and not self._output.parent.is_dir():
            raise UserError(
                f"--output {self._output} is in a folder that does not exist; create it, or give a file elsewhere"
            )
        if self.make_runs and self._output.is_dir():
            raise UserError(f"--output {self._output} is a folder; give a file, such as REPRODUCE.md")
        seeds = None if self.seeds is None else range(self.seeds)
        budget = math.inf if self.budget is None else parse_budget(self.budget)
        return reproducing.Request(runs, data, select(self.only or ()), seeds, budget, earlier)

    @property
    def _output(self) -> Path:
        """File for the tables with `--run`."""
        return (self.output or Path("REPRODUCE.md")).expanduser()

    def _make_runs(self, request: reproducing.Request) -> None:
        if self.plan:
            plan = reproducing.Planner(request).plan(request.found(), request.budget)
            plain = {
                "runs": [
                    {"run": job.title, "tasks": job.experiment.num_tasks, "seconds": job.seconds} for job in plan.jobs
                ],
                "left_out": plan.left_out,
            }
            self.print_result(plain, lambda: print(reproducing.show_plan(plan, request.budget)))
            return
        self._prepare_copies()
        extras.warn_missing()
        output = self._output
        pictures = (self.figures or request.runs).expanduser()

        def write(runs: Sequence[Run]) -> None:
            evaluated = [run for run in runs if run.accuracies["given"]]
            atomic.write(output, reproduction.table(evaluated))
            self._keep(evaluated)
            self._draw(evaluated, pictures)

        with self.messages_on_stderr():
            failed = reproducing.reproduce(
                request, write, lambda line: print(line, flush=True), _STDERR if self.json else None
            )
        self.print_result({"written": output, "failed": failed}, lambda: print(output))
        if failed:
            raise SystemExit(1)

    def _prepare_copies(self) -> None:
        if self.keep:
            keeping.prepare(self.keep.expanduser())

    def _keep(self, runs: Sequence[Run]) -> None:
        if self.keep:
            keeping.keep(runs, self.keep.expanduser())

    def _draw(self, runs: Sequence[Run], folder: Path) -> None:
        shown = [run for run in scripts.of_scripts(runs) if run.name in figures.SHOWN]
        if not shown or not extras.is_installed("plots"):
            return
        with drawing.optional(f"a figure in {folder}", "the next run, or the command plot, draws it"):
            # A UserError is a warning too: runs of different seeds may not have the same numbers of tasks yet.
            pictures = figures.draw_paper(shown)
            folder.mkdir(parents=True, exist_ok=True)
            for name, picture in pictures.items():
                figures.save(picture, folder / f"{name}.png")
