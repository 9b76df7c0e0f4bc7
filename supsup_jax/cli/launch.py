"""Launch the runs of a command line: in this process, in several processes, or on a cluster."""

import contextlib
import functools
import io
import operator
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from supsup_jax import data
from supsup_jax.cli import sweep
from supsup_jax.cli.cluster import Cluster, Jobs
from supsup_jax.cli.flags import Request, flag_of, naming_flags, parse
from supsup_jax.cli.options import Options, arguments_of_user
from supsup_jax.cli.program import PACKAGE, how_to_resume, program_of
from supsup_jax.data.arrays import summary
from supsup_jax.errors import UserError, warn
from supsup_jax.experiment import Experiment
from supsup_jax.paper import drawing, figures
from supsup_jax.runs import composition, initial, results, reuse
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.records import Record
from supsup_jax.runs.run import Run
from supsup_jax.runs.settings import read_run, text_of
from supsup_jax.runs.steps import DamagedError
from supsup_jax.runs.train import opened, run_experiment
from supsup_jax.system import atomic, backend, devices, extras, hosts, interruption, locks, platforms

_OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|[Oo]ut of memory")
"""XLA's message if an array does not fit into memory."""

_ACCURACY = "accuracy.png"

_SUBMITIT = ".cluster"
"""Name of the folder for submitit's files, beside the runs."""


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Report an error that the user can fix as one line on stderr, and exit; context manager and decorator.

    Raises:
        SystemExit: with status 2 after a `UserError`, 130 after Ctrl-C, 143 after SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that a terminal cannot show stops no run
    try:
        yield
    except UserError as error:
        raise _exit_with(str(error)) from None
    except (MemoryError, RuntimeError, AssertionError, ValueError) as error:
        hosts.wait_for_watch()  # if another host has died, the watch reports that
        detail = " ".join(str(error).split())[-100:]
        if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
            hint = "make the run or its network smaller, or learn fewer tasks at a time (--tasks-at-once of scripts)"
            raise _exit_with(f"there is not enough memory ({detail}); {hint}") from None
        if problem := platforms.problem():
            raise _exit_with(problem) from None
        hosts.fail_with_traceback()
        raise
    except OSError as error:
        raise _exit_with(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None
    except KeyboardInterrupt as interrupt:
        print("; ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        raise SystemExit(interruption.status_of(interrupt)) from None


def _exit_with(message: str) -> SystemExit:
    """Print an error message, with line breaks in file names escaped, and return the exception that exits."""
    print("error: " + message.replace("\n", "\\n"), file=sys.stderr)
    hosts.fail()
    return SystemExit(2)


@errors_in_one_line()
@arguments_of_user()
def main(
    experiment: Experiment, description: str | None, *, shares_run: bool = False, **sweep: Sequence[Any]
) -> list[Run]:
    """Run the experiment of a script with the settings of the command line; see `script.main`."""
    request = parse(experiment, description, sweep)
    experiments, options, cluster, _ = request
    places = _RunFolders(request, shares_run)
    if any(settings.get("initializer") == "kaiming_uniform" for settings in map(composition.settings_of, experiments)):
        note = "--initializer kaiming_uniform is the original's; version 0.1 used this name for pytorch_default"
        print(note, file=sys.stderr)
    backend.use_one_blas_thread()
    backend.keep_compiled()
    if len(experiments) > 1 or options.gpu_sets or cluster.cluster:
        _sweep(experiments, options, cluster, places)
        return []
    (experiment,) = experiments
    _prepare_devices(experiment)
    _join_hosts(experiment, options)
    platforms.check()
    dataset = hosts.run_on_all(lambda: experiment.tasks.load(options.data))
    hosts.check_equal(summary(dataset) if hosts.is_joined() else {})
    _check(experiment, dataset)

    settings = text_of(experiment, dataset, vars(options))
    with contextlib.ExitStack() as stack:

        def folder() -> str:
            folder = places.earlier(experiment)
            if folder is None:
                places.warn_if_new([experiment])
                folder = places.new(experiment)
                stack.callback(results.remove_unused, folder)
            stack.enter_context(atomic.locked(folder))
            return str(folder)

        return [_run(experiment, dataset, Path(hosts.broadcast(folder)), vars(options), settings)]


def _prepare_devices(experiment: Experiment) -> None:
    """Make a JAX device of each CPU core if tasks are learned in parallel."""
    if not experiment.in_turn and not experiment.shares_batches:
        devices.use_all_cores()


def _join_hosts(experiment: Experiment, options: Options) -> None:
    """Join the other hosts of the run, if there are several hosts.

    Raises:
        UserError: if they cannot be reached, or differ.
    """
    facts = {flag_of(name): value for name, value in composition.plain(experiment).items()}
    hosts.join_as(options.coordinator, options.hosts, options.host, facts, options.host_timeout)


def _check(experiment: Experiment, dataset: data.Dataset, is_new: bool = True) -> None:
    """Check that an experiment fits its data set and, for a new run, its base weights, before anything is written.

    Raises:
        UserError: if it does not fit.
    """
    with naming_flags():
        experiment.build(dataset)
        if is_new:
            initial.check(experiment, dataset)


def run(folder: Path, data_folder: Path | None = None) -> None:
    """Resume the run in a folder from its last checkpoint, or start it if it has no checkpoint.

    Args:
        folder: the run's folder, which contains `settings.yaml`.
        data_folder: folder with data sets; by default the folder that the run used before.

    Raises:
        UserError: if the folder does not contain a run's settings.
    """
    experiment, options, command = read_run(folder)
    _prepare_devices(experiment)
    platforms.check()
    dataset = experiment.tasks.load(data_folder or options["data"])
    _check(experiment, dataset, is_new=False)  # checkpoints store base weights, so their file may be missing
    # The settings describe the machine, which may differ from the machine that made the folder.
    settings = text_of(experiment, dataset, options, command)
    with atomic.locked(folder):
        try:
            _run(experiment, dataset, folder, options, settings)
        except reuse.NotReusableError as error:  # such as in a sweep whose first run has failed
            warn(f"{error}; all tasks are learned here")
            _run(experiment, dataset, folder, options | {"learned_in": None}, settings)


def _run(experiment: Experiment, dataset: data.Dataset, folder: Path, options: Mapping[str, Any], settings: str) -> Run:
    """Run an experiment in a folder, draw its accuracy, and print the results.

    Args:
        experiment: the experiment.
        dataset: its data set.
        folder: the run's folder.
        options: options of the command line, or of the run's `settings.yaml`.
        settings: text of the run's `settings.yaml`, written after its checkpoints are validated.

    Raises:
        KeyboardInterrupt: if it was interrupted.
    """
    from supsup_jax.cli.console import Reporter, show_densities, show_results

    tasks_at_once, source = options["tasks_at_once"], options.get("learned_in")
    learned_in = None if source is None else Path(source).expanduser()
    if not hosts.is_first():
        with interruption.graceful(lambda _: None, lambda: None):
            return run_experiment(experiment, dataset, folder, tasks_at_once, learned_in=learned_in)
    extras.warn_missing()
    if densities := experiment.densities(dataset):
        show_densities(densities)
    if hosts.count() > 1:
        print(f"hosts: {hosts.count()}")
    farewell = f"resume {folder} from its last checkpoint with --resume, or: {how_to_resume(experiment, folder)}"
    try:
        with Reporter(folder.name, farewell) as reporter, interruption.graceful(reporter.announce, reporter.give_up):
            write = functools.partial(results.write_text, folder, settings)
            run = run_experiment(experiment, dataset, folder, tasks_at_once, reporter, write, learned_in=learned_in)
        _draw(experiment, folder, run.record)
        show_results(run, experiment.build(dataset).protocol.images_per_task)
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(farewell) from None
    return run


def _draw(experiment: Experiment, folder: Path, record: Record) -> None:
    """Draw a finished run; if drawing fails, warn how to draw it later."""
    if not extras.is_installed("plots"):
        return  # the user was told at the start
    later = f"draw it with {how_to_resume(experiment, folder)}"
    with drawing.optional(folder / _ACCURACY, later):
        figures.draw_accuracy(folder / _ACCURACY, experiment.name, experiment.seed, record)
    if (folder / "recovery.csv").exists():
        with drawing.optional(folder / "recovery.png", later):
            figures.save(figures.draw_recovery([folder]), folder / "recovery.png")


def _draw_missing(experiments: Sequence[Experiment], members: Sequence[sweep.Member]) -> None:
    """Draw the finished runs that have no figures yet."""
    for experiment, member in zip(experiments, members, strict=True):
        if member.state == "finished" and extras.is_installed("plots") and not (member.folder / _ACCURACY).exists():
            with drawing.optional(
                member.folder / _ACCURACY, f"draw it with {how_to_resume(experiment, member.folder)}"
            ):
                record = Record()
                with Checkpoints(member.folder) as checkpoints:
                    for step in checkpoints.records():
                        record.add(Record.from_json(step["record"]))
                _draw(experiment, member.folder, record)


def _sweep(experiments: Sequence[Experiment], options: Options, cluster: Cluster, places: "_RunFolders") -> None:
    """Run every experiment in a separate process, or on a cluster, and wait until all have ended.

    Raises:
        SystemExit: with status 1 if a run failed.
        KeyboardInterrupt: if it was interrupted.
    """
    from supsup_jax.cli.console import SweepTable, show_failures

    sets = sweep.parse_sets(options.gpu_sets) if options.gpu_sets else sweep.all_devices()
    if cluster.cluster:
        cluster.check()
    program = next((needed for needed in map(program_of, experiments) if needed != PACKAGE), PACKAGE)
    if cluster.cluster != "slurm":
        platforms.check_in_a_process()
    platforms.use_cpu()  # the runs need the memory of the GPUs
    dataset = experiments[0].tasks.load(options.data)
    for experiment in experiments:
        _check(experiment, dataset)
    earlier = [places.earlier(experiment) for experiment in experiments]
    replaced: dict[Path, str] = {}  # text of the settings of earlier runs
    with contextlib.ExitStack() as stack:
        for experiment, folder in zip(experiments, earlier, strict=True):
            if folder is not None and not results.is_finished(folder, experiment.evaluations):
                # Settings of running jobs are not changed, nor of damaged runs, which will fail with their own error.
                with contextlib.suppress(locks.LockedError, DamagedError):
                    stack.enter_context(atomic.locked(folder))
                    opened(experiment, dataset, folder)
                    replaced[folder] = (folder / results.SETTINGS).read_text()
        pairs = list(zip(experiments, earlier, strict=True))
        places.warn_if_new([experiment for experiment, folder in pairs if folder is None])
        folders = [folder or places.new(experiment) for experiment, folder in pairs]
        sources = reuse.learned_alike(experiments)
        for experiment, folder, source in zip(experiments, folders, sources, strict=True):
            if folder not in earlier or folder in replaced:
                taken = {} if source is None else {"learned_in": folders[source]}
                results.write_text(folder, text_of(experiment, dataset, vars(options) | taken))
    extras.warn_missing()
    members = [sweep.Member(folder, each.evaluations) for each, folder in zip(experiments, folders, strict=True)]

    parent = folders[0].parent
    table = SweepTable(
        f"{parent}: {len(members)} runs",
        "interrupted: no further run starts; the others finish and save their current tasks{within}; press Ctrl-C "
        "again to stop them at once",
    )
    farewell = f"resume the runs in {parent} from their last checkpoints with --resume"
    try:
        if cluster.cluster:
            jobs = Jobs(members, cluster, parent / _SUBMITIT, program)
            try:
                print(jobs.submit(), flush=True)
            except UserError:
                for folder in set(folders) - set(earlier):
                    shutil.rmtree(folder)
                for folder, text in replaced.items():
                    results.write_text(folder, text)
                raise
            farewell = "the jobs keep running; to watch them again, give the same command with --resume"
            with table:
                jobs.watch(table)
        else:
            takes = [source is not None for source in sources]
            ordered = [member for _, member in sorted(zip(takes, members, strict=True), key=operator.itemgetter(0))]
            with table:
                sweep.run(ordered, sets, table, table.announce, lambda folder: sweep.command_of(folder, *program))
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(farewell) from None
    finally:
        show_failures(members)
    _draw_missing(experiments, members)
    if any(member.state == "failed" for member in members):
        raise SystemExit(1)


class _RunFolders:
    """The folders of the runs of a command line.

    Args:
        request: the runs.
        shares_run: whether an earlier run with the same settings is used even without `--resume`.
    """

    def __init__(self, request: Request, shares_run: bool):
        self._options, self._swept, self._shares_run = request.options, request.swept, shares_run

    def _place(self, experiment: Experiment) -> tuple[Path, str]:
        """Return the parent and the name of a run's folder."""
        settings, parts = composition.settings_of(experiment), [f"seed={experiment.seed}"]
        if (scale := settings.get("er_scale")) is not None:
            parts.append(f"sparsity={scale:g}")
        parts += [f"{name}={settings[name]}" for name in self._swept]
        if self._options.tasks is not None:
            parts.append(f"task={experiment.first_task}")
        return Path(os.path.expanduser(self._options.log_dir)) / experiment.name, "~".join(parts)

    def new(self, experiment: Experiment) -> Path:
        """Create the folder of a new run.

        Raises:
            UserError: if it cannot be created.
        """
        if composition.settings_of(experiment)["initializer"] == "stored":
            raise UserError("--initializer stored is only for imported runs; give another initializer")
        if self._options.learned_in is not None:
            reuse.check_folder(self._options.learned_in.expanduser())
        parent, name = self._place(experiment)
        log_dir = self._options.log_dir
        try:
            str(parent).encode()
        except UnicodeEncodeError:  # Orbax would fail only at the first checkpoint
            raise UserError(f"--log-dir {log_dir!s} is not UTF-8; give another folder") from None
        try:
            return results.new_folder(parent, name)
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}"
            raise UserError(f"--log-dir {log_dir} cannot be written ({reason}); give another folder") from None

    def warn_if_new(self, experiments: Sequence[Experiment]) -> None:
        """With `--resume`, print which runs start, because there is no earlier run in this folder.

        Args:
            experiments: the experiments without an earlier run.
        """
        if self._options.resume and experiments:
            parent, _ = self._place(experiments[0])
            names = [self._place(experiment)[1] for experiment in experiments]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            print(
                f"--resume found nothing to resume in {parent.absolute()} for {', '.join(names[:3])}{more}; "
                f"{'it starts' if len(names) == 1 else 'they start'} from the beginning",
                file=sys.stderr,
                flush=True,
            )

    def earlier(self, experiment: Experiment) -> Path | None:
        """Return the newest run with the same settings that is to be resumed; `None` if there is none.

        Raises:
            UserError: if `--resume` was given and all earlier runs have different settings.
        """
        if not self._options.resume and not self._shares_run:
            return None
        others = {}
        for folder in results.existing_folders(*self._place(experiment)):
            settings = results.read_settings(folder)
            if not settings:  # the process ended before it wrote the settings
                continue
            others[folder] = composition.differences(experiment, settings["experiment"])
            is_longer = settings["experiment"].get("num_tasks", 0) > experiment.num_tasks
            if not others[folder] and (self._options.resume or not is_longer):
                return folder
        if others and self._options.resume:
            folder, differences = next(iter(others.items()))
            raise UserError(
                f"{folder} has other settings ({'; '.join(differences)}); use its settings, or start without --resume"
            )
        return None
