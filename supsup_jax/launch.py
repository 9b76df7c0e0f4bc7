"""The command line of every experiment script."""

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supsup_jax import data, figures, parallel, results
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.scenarios import Outcome, run_of


@dataclass(frozen=True)
class Options:
    """Where a run reads and writes, and how: nothing that changes what it computes."""

    data: Path = Path("~/data")
    """Folder with data sets in the layouts that you have; what is missing is downloaded into it."""

    log_dir: Path = Path("runs")
    """Folder for results."""

    seeds: int | None = None
    """Run with seeds 0 to N-1, one after another, in place of --seed."""

    tasks_at_once: int | None = None
    """Tasks to learn between two checkpoints; by default 8 or one a core on a CPU, and up to
    128 a GPU as memory allows. Results do not depend on it."""

    resume: bool = False
    """Go on with the latest run of these settings, if there is one."""

    def __post_init__(self) -> None:
        for name in ("seeds", "tasks_at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value} is out of range; give a number from 1")


@contextlib.contextmanager
def ends_in_one_line() -> Iterator[None]:
    """Says on stderr in one line what the user has to do, where a command cannot go on; also a decorator.

    Raises:
        SystemExit: with status 2 after an error of the user's, 130 if interrupted.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"error: {f'{error.filename}: {error.strerror}' if error.filename else error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as interrupt:
        print("; ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        raise SystemExit(130) from None


@ends_in_one_line()
def main(experiment: Experiment, description: str | None) -> list[Outcome]:
    """Runs an experiment as the command line says; a script's only call.

    Args:
        experiment: the settings that the script stands for; the command line may change any.
        description: shown by `--help`.

    Returns:
        The finished run of every seed.

    Raises:
        SystemExit: with status 2 after an error of the user's, 130 if interrupted.
    """
    folder = None
    try:
        experiment, options = parse(experiment, description)
        if not experiment.in_turn:
            parallel.use_all_cores()
        dataset = data.load(experiment.dataset, options.data)
        experiment.build(dataset)  # what does not fit is said before anything is written
        from supsup_jax.console import Reporter, show_outcome

        outcomes = []
        for seed in [experiment.seed] if options.seeds is None else range(options.seeds):
            seeded = dataclasses.replace(experiment, seed=seed)
            folder = _folder(seeded, options)
            with Reporter(folder.name) as reporter:
                outcomes.append(run_of(seeded.scenario).of(seeded, dataset, folder, options.tasks_at_once, reporter))
            figures.draw_accuracy(folder / "accuracy.png", seeded.name, seed, outcomes[-1].record)
            if (folder / "recovery.csv").exists():
                figures.save(figures.draw_recovery([folder]), folder / "recovery.png")
            show_outcome(outcomes[-1])
        return outcomes
    except KeyboardInterrupt:
        saved = [f"what {folder} has saved is gone on with by --resume"] if folder else []
        raise KeyboardInterrupt(*saved) from None


def parse(experiment: Experiment, description: str | None) -> tuple[Experiment, Options]:
    """The experiment with what the command line changes, and the options.

    Raises:
        SystemExit: for `--help`, and with status 2 for a flag that does not exist or takes another type.
        UserError: if a value is out of its range.
    """
    import tyro

    def arguments(
        experiment: tyro.conf.OmitArgPrefixes[Experiment] = experiment,
        run: tyro.conf.OmitArgPrefixes[Options] = Options(),
    ) -> tuple[Experiment, Options]:
        return experiment, run

    with complaints_as_errors():
        return tyro.cli(arguments, description=description)


@contextlib.contextmanager
def complaints_as_errors() -> Iterator[None]:
    """Turns what tyro says of a wrong command line into an error of the user's.

    Raises:
        SystemExit: for `--help`.
        UserError: in place of tyro's box on stderr.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            yield
    except SystemExit:
        if not complaint.getvalue():
            raise
        raise UserError(_one_line(complaint.getvalue())) from None


def _one_line(box: str) -> str:
    """What a box of tyro's says, without its frame, the help of other options, and where to find more help."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:-1]]
    words = " ".join(line for line in lines if not set(line) <= {"─"})
    words = words.split(" For full helptext")[0].split(" Argument helptext:")[0]
    words = re.sub(r" in \S+ \S+ --help", "", words)  # tyro forgets a part of `python -m supsup_jax COMMAND`
    return f"{words} (--help explains every option)"


def _folder(experiment: Experiment, options: Options) -> Path:
    """The folder of the run to go on with, or else of a new one, with its settings."""
    parent = Path(os.path.expanduser(options.log_dir)) / experiment.name
    name = f"seed={experiment.seed}"
    folder = _earlier_folder(experiment, parent, name) if options.resume else None
    folder = folder or results.new_folder(parent, name)
    where = {field: str(value) if isinstance(value, Path) else value for field, value in vars(options).items()}
    results.write_settings(folder, {"experiment": experiment.to_json(), "options": where})
    return folder


def _earlier_folder(experiment: Experiment, parent: Path, name: str) -> Path | None:
    """The newest run of the same settings; nothing if there is no run yet.

    Raises:
        UserError: if there are runs, but of other settings.
    """
    earlier = {}
    for folder in results.existing_folders(parent, name):
        if settings := results.read_settings(folder):  # a run without any ended before it began
            earlier[folder] = experiment.differs_from(settings["experiment"])
            if not earlier[folder]:
                return folder
    if earlier:
        folder, differences = next(iter(earlier.items()))
        raise UserError(
            f"{folder} has other settings ({'; '.join(differences)}); use its settings, or start without --resume"
        )
    return None
