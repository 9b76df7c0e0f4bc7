"""What the command line of an experiment script may say, and what it asks for."""

import argparse
import contextlib
import dataclasses
import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import tyro

from supsup_jax.cli import sweep
from supsup_jax.cli.cluster import Cluster
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.runs.settings import load_settings
from supsup_jax.system import hosts

# A run is a folder and a process of its own.
_MOST = 100_000


@dataclass(frozen=True)
class Options:
    """Where a run reads and writes, and how: nothing that changes what it computes."""

    config: Path | None = None
    """YAML file with settings in place of the script's; what the command line says goes before."""

    data: Path = Path("~/data")
    """Folder with data sets in the layouts that you have; what is missing is downloaded into it."""

    log_dir: Path = Path("runs")
    """Folder for results."""

    seeds: int | None = None
    """Run with seeds 0 to N-1 in place of --seed."""

    gpu_sets: str | None = None
    """Sets of GPUs for several runs, such as "0,1|2,3": each run has the next free set, in a process of its own. By
    default every GPU is a set, or the CPU."""

    tasks_at_once: int | None = None
    """Tasks to learn between two checkpoints; by default 8 or one a core on a CPU, and up to
    128 a GPU as memory allows. Results do not depend on it; an end that is asked for comes after so many."""

    tasks: str | None = None
    """Tasks to learn each as a run of its own, such as 0:100 for the first hundred; `python -m supsup_jax collect`
    then makes one run of them."""

    coordinator: str | None = None
    """A run on several hosts: HOST:PORT of the first of them, where the same command runs on each. Under SLURM, with
    srun, nothing needs to be said."""

    hosts: int | None = None
    """With --coordinator: how many hosts there are."""

    host: int | None = None
    """With --coordinator: which of them this is, from 0."""

    resume: bool = False
    """Go on with the latest runs of these settings, if there are any; those that are finished are left as they are."""

    def __post_init__(self) -> None:
        for name in ("seeds", "tasks_at_once"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= _MOST:
                raise UserError(f"--{name.replace('_', '-')} {value} is out of range; give a number from 1 to {_MOST}")
        if self.gpu_sets is not None:
            sweep.parse_sets(self.gpu_sets)
        if self.tasks is not None:
            parse_tasks(self.tasks)
        if self.coordinator is not None and not re.fullmatch(r"\S+:\d{1,5}", self.coordinator):
            raise UserError(f"--coordinator {self.coordinator} is no address; give HOST:PORT, such as node1:1234")
        together = self.coordinator is not None, self.hosts is not None, self.host is not None
        if any(together) and not all(together):
            raise UserError("--coordinator, --hosts and --host need each other; give all of them, or none")
        if self.hosts is not None and self.host is not None and not 0 <= self.host < self.hosts:
            raise UserError(f"--host {self.host} is out of range; give a number from 0 to {self.hosts - 1}")


def parse_tasks(text: str) -> range:
    """Tasks as `--tasks` has them: the first and the one after the last.

    Raises:
        UserError: if there are none.
    """
    ends = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    tasks = range(*map(int, ends.groups())) if ends else range(0)
    if not tasks:
        raise UserError(f"--tasks {text} names no tasks; give the first and the one after the last, such as 0:100")
    return tasks


@dataclass(frozen=True)
class _Settings(Experiment):
    """What a run computes: with the same settings, it gives the same numbers."""

    # The command line has `--sparsity` for it, where an experiment has densities.
    er_scale: Annotated[float | None, tyro.conf.Suppress, tyro.conf.Fixed] = None


Sweep = Mapping[str, Sequence[Any]]
"""Values of some of an experiment's settings, by name: there is a run for each combination."""

_EXAMPLES = {"sparsity": "16 32"}
_HELP = {
    "er_scale": "Numbers s, a run each: a layer of O outputs and I inputs keeps the fraction min(0.5, s (O + I) / "
    "(O I kh kw)) of its weights; more is denser."
}


class Request(NamedTuple):
    """What a command line asks for.

    Attributes:
        experiments: the settings of each run.
        options: where they read and write, and how.
        cluster: where they are submitted to, if they are.
        swept: the settings, beside seed and densities, whose values tell the runs apart.
    """

    experiments: list[Experiment]
    options: Options
    cluster: Cluster
    swept: tuple[str, ...]


def parse(experiment: Experiment, description: str | None, sweep: Sweep | None = None) -> Request:
    """What the command line makes of an experiment.

    Args:
        experiment: the script's.
        description: shown by `--help`.
        sweep: the script's values of settings, a run for each combination; by default its only `er_scale`, if it has
            any.

    Raises:
        SystemExit: for `--help`.
        UserError: if a flag does not exist or takes another type, or a value is out of its range.
    """
    fields = {}
    if config := _config():
        fields = load_settings(config)
        experiment = dataclasses.replace(experiment, **fields)
    sweep = {name: values for name, values in (sweep or {}).items() if name not in fields}
    if experiment.er_scale is not None:
        sweep = {"er_scale": (experiment.er_scale,)} | sweep

    settings, values = _types_of(sweep)
    parts: list[tuple[str, Any, Any]] = [
        ("experiment", settings, settings(**vars(experiment))),
        ("sweep", values, values()),
        ("options", Options, Options()),
        ("cluster", Cluster, Cluster()),
    ]
    arguments = dataclasses.make_dataclass(
        "Arguments", [(name, tyro.conf.OmitArgPrefixes[kind], default) for name, kind, default in parts]
    )
    with complaints_as_errors():
        said: Any = tyro.cli(arguments, description=description)
    return _request(said.experiment, vars(said.sweep), said.options, said.cluster)


def _types_of(sweep: Sweep) -> tuple[type[Experiment], type[Any]]:
    """The settings that a run has one value of, and those of a sweep, with their values, as tyro reads them."""
    types = get_type_hints(Experiment)
    hidden = [
        (name, Annotated[types[name], tyro.conf.Suppress, tyro.conf.Fixed], dataclasses.field(default=values[0]))
        for name, values in sweep.items()
        if name != "er_scale"
    ]
    offered = []
    for name, values in sweep.items():
        kind: Any = float if name == "er_scale" else types[name]
        flag, metavar = ("sparsity", "S [S ...]") if name == "er_scale" else (name, None)
        said = tyro.conf.arg(metavar=metavar, help=_HELP.get(name, "Values, a run for each."))
        default = dataclasses.field(default=tuple(kind(value) if name == "er_scale" else value for value in values))
        offered.append((flag, Annotated[tuple[kind, ...], said], default))
    settings = dataclasses.make_dataclass("Settings", hidden, bases=(_Settings,), frozen=True)
    settings.__doc__ = _Settings.__doc__
    return settings, dataclasses.make_dataclass("Sweep", offered, frozen=True)


def _request(settings: Experiment, values: dict[str, tuple[Any, ...]], options: Options, cluster: Cluster) -> Request:
    """The runs that were asked for.

    Raises:
        UserError: if values are missing, come twice or are out of range, or options do not go together.
    """
    for flag, of_flag in values.items():
        option = f"--{flag.replace('_', '-')}"
        if not of_flag:
            raise UserError(f"{option} has no values; give one or more, such as {option} {_EXAMPLES.get(flag, '...')}")
        for value in of_flag:
            if flag == "sparsity" and not 0 < value < math.inf:
                raise UserError(f"--sparsity {value:g} is out of range; give numbers above 0")
            if of_flag.count(value) > 1:
                said = f"{value:g}" if isinstance(value, float) else value
                raise UserError(f"{option} has {said} twice; give every value once")
    if options.gpu_sets and cluster.cluster:
        raise UserError("--gpu-sets is for runs on this machine, and --cluster for others; give one of them")
    names = ["er_scale" if flag == "sparsity" else flag for flag in values]
    plain = Experiment(**vars(settings))
    each = [
        dataclasses.replace(plain, **dict(zip(names, combination, strict=True)), seed=seed, **task)
        for combination in itertools.product(*values.values())
        for seed in ([plain.seed] if options.seeds is None else range(options.seeds))
        for task in _tasks_of(options)
    ]
    if (len(each) > 1 or options.gpu_sets or cluster.cluster) and hosts.several(options.coordinator):
        raise UserError("several hosts are for a single run; give one seed, one --sparsity, and no --gpu-sets")
    return Request(each, options, cluster, tuple(name for name in names if name != "er_scale"))


def _tasks_of(options: Options) -> list[dict[str, int]]:
    """The settings of the runs that `--tasks` makes of one."""
    if options.tasks is None:
        return [{}]
    tasks = parse_tasks(options.tasks)
    if len(tasks) > _MOST:
        raise UserError(f"--tasks {options.tasks} are too many runs; give at most {_MOST} at a time")
    return [{"first_task": task, "num_tasks": 1} for task in tasks]


def _config() -> Path | None:
    """The file that the command line gives with `--config`, which has to be read before all else."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path, nargs="?")
    config = finder.parse_known_args()[0].config
    return config and config.expanduser()


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
