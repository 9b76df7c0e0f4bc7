"""The command line of an experiment script: its flags are the settings of the experiment's own parts.

A flag that names a part, such as `--method`, is read first; the other flags are then those of that part.
"""

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import docstring_parser
import tyro

from supsup_jax import registry
from supsup_jax.cli.cluster import Cluster
from supsup_jax.cli.options import MOST_RUNS, Options, complaints_as_errors, parse_tasks
from supsup_jax.errors import ArgumentError, UserError
from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition, formats
from supsup_jax.runs.composition import Group
from supsup_jax.runs.settings import load_settings
from supsup_jax.system import hosts

Sweep = Mapping[str, Sequence[Any]]
"""Values of some of an experiment's settings, by name: there is a run for each combination."""

_TRAINING = ("training", "optimizer")
_SECTIONS = {
    "experiment": lambda kind: kind not in _TRAINING,
    "training": lambda kind: kind in _TRAINING,
}
"""The groups in which `--help` shows the settings, and which kinds of parts are in each."""

_HELP = {
    "benchmark": "How tasks are made of the data set.",
    "dataset": "The data set.",
    "network": "The network.",
    "initializer": "How base weights are drawn; the original's `default` is pytorch_default.",
    "method": "How tasks are learned in one network.",
    "scenario": "Whether the task is Given or Not in training, and in inference; u: labels are unshared, s: shared.",
    "search": "How the task of an image is inferred.",
    "objective": "What the right task makes small: the entropy H, or G of the superfluous neurons.",
    "optimizer": "The optimizer, a new one for every task.",
    "er_scale": "Numbers s, a run each: a layer of O outputs and I inputs keeps the fraction min(0.5, s (O + I) / "
    "(O I kh kw)) of its weights; more is denser.",
    "density": "The fraction of its weights that every layer keeps, those with the largest scores by magnitude.",
}
_FLAGS = {"er_scale": "sparsity"}
_ALIASES = {
    "dataset": "--source",
    "recovery_momentum": "--momentum",
    "recovery_weight_decay": "--weight-decay",
}
_EXAMPLES = {"er_scale": "16 32"}


class Request(NamedTuple):
    """What a command line asks for.

    Attributes:
        experiments: the experiment of each run.
        options: where they read and write, and how.
        cluster: where they are submitted to, if they are.
        swept: the settings, beside seed and densities, whose values tell the runs apart.
    """

    experiments: list[Experiment]
    options: Options
    cluster: Cluster
    swept: tuple[str, ...]


def parse(experiment: Experiment, description: str | None, sweep: Sweep | None = None) -> Request:
    """Reads the command line.

    Args:
        experiment: the script's.
        description: shown by `--help`.
        sweep: the script's values of settings, a run for each combination; by default its only `er_scale`, if it has
            any.

    Raises:
        SystemExit: for `--help`.
        UserError: if a flag does not exist or takes another type, or a value is out of its range.
    """
    objects, values = composition.objects_of(experiment), composition.settings_of(experiment)
    configured = {}
    if config := _config():
        configured = load_settings(config, objects)
        values |= configured
    sweep = {name: given for name, given in (sweep or {}).items() if name not in configured}
    if values.get("er_scale") is not None:
        sweep = {"er_scale": (values["er_scale"],)} | sweep
    group = composition.layout(values | _chosen_parts(), objects)
    hidden = _hidden(group)
    sections = {name: _section(name, group, sweep, hidden) for name in _SECTIONS}
    of_run = {"run": _of_run(hidden)}
    arguments = dataclasses.make_dataclass(
        "Arguments",
        [(name, tyro.conf.OmitArgPrefixes[kind], dataclasses.field(default=kind())) for name, kind in
         (sections | of_run).items()],
    )  # fmt: skip
    with complaints_as_errors():
        said: Any = tyro.cli(arguments, description=_description(description), compact_help=True)
    given = {name: value for section in sections for name, value in vars(getattr(said, section)).items()}
    for name in ("momentum", "weight_decay"):  # a recovery has those of the training, unless it is given its own
        of_recovery = f"recovery_{name}"
        if given.get(name) != group.values.get(name) and given.get(of_recovery) == group.values.get(of_recovery):
            given[of_recovery] = given[name]
    swept = {name: given.pop(name) for name in sweep}
    with naming_flags():
        request = _request(
            (group.values | given, objects), swept, _part_of(said.run, Options), _part_of(said.run, Cluster)
        )
    _warn_of_evaluations(request.experiments)
    return request


def _warn_of_evaluations(experiments: Sequence[Experiment]) -> None:
    """Says which evaluations, of those that the command line gives, come after the last task."""
    if flag_of("eval_at") not in {word.partition("=")[0].replace("_", "-") for word in sys.argv[1:]}:
        return  # those of a script are for as many tasks as it has
    longest = max(experiment.num_tasks for experiment in experiments)
    beyond = sorted({count for one in experiments for count in one.evaluate_at if count > longest})
    if beyond:
        print(
            f"warning: --eval-at {' '.join(map(str, beyond))} is beyond --num-tasks {longest} and is left out; after "
            "the last task all are evaluated",
            file=sys.stderr,
        )


class naming_flags:  # noqa: N801 - a context manager
    """Has errors about settings name the flags that give them."""

    def __enter__(self) -> None: ...

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if isinstance(error, ArgumentError) and not error.argument.startswith("--"):
            raise error.renamed(flag_of(error.argument)) from None


def flag_of(setting: str) -> str:
    """The flag of a setting."""
    return "--" + _FLAGS.get(setting, setting).replace("_", "-")


def _chosen_parts() -> dict[str, Any]:
    """The parts that the command line names, which decide what other flags there are."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for key in map(formats.key_of, formats.KINDS):
        finder.add_argument(flag_of(key), *filter(None, [_ALIASES.get(key)]), dest=key, nargs="?")
    return {key: name for key, name in vars(finder.parse_known_args()[0]).items() if name is not None}


def _section(name: str, group: Group, sweep: Sweep, hidden: set[str]) -> type[Any]:
    """The flags of some parts, as a dataclass."""
    fields: list[tuple[str, Any, Any]] = []
    taken = {flag_of(setting.name) for part in group for setting in part.settings}
    for part in group:
        if not _SECTIONS[name](part.kind):
            continue
        if part.key:
            names = registry.names(part.kind)
            said = f"{_HELP[part.key]} One of {', '.join(names)}." if part.key in _HELP else ""
            fields.append(_flag(part.key, str, part.name, said, sweep, taken=taken, metavar="NAME"))
        docs = _docs(part.component)
        for setting in part.settings:
            if setting.name == "er_scale" and "er_scale" not in sweep:
                continue
            kind = Annotated[setting.type, tyro.conf.Suppress] if setting.name in hidden else setting.type
            said = _HELP.get(setting.name) or docs.get(setting.field, "")
            fields.append(_flag(setting.name, kind, setting.value, said, sweep, taken=taken))
    return dataclasses.make_dataclass(name.title(), fields, frozen=True)


def _flag(
    name: str, kind: Any, value: Any, said: str, sweep: Sweep, *, taken: set[str], metavar: str | None = None
) -> tuple[str, Any, Any]:
    """A setting as a field that tyro makes a flag of; of a setting that is swept, all values."""
    if name in sweep:
        kind = float if name == "er_scale" else kind
        value = tuple(kind(one) if kind in (int, float) else one for one in sweep[name])
        kind, metavar = tuple[kind, ...], "S [S ...]" if name == "er_scale" else metavar
        said = said if name == "er_scale" else f"{said} Values, a run for each."
    aliases = [_ALIASES[name]] if name in _ALIASES and _ALIASES[name] not in taken else None
    argument = tyro.conf.arg(name=_FLAGS.get(name, name).replace("_", "-"), help=said, metavar=metavar, aliases=aliases)
    return name, Annotated[kind, argument], dataclasses.field(default=value)


def _docs(component: Any) -> dict[str, str]:
    """The description of each field of a part, from its docstring and those of its base classes."""
    docs: dict[str, str] = {}
    for base in reversed(getattr(component, "__mro__", ())):
        for field in docstring_parser.parse(vars(base).get("__doc__") or "").params:
            text = " ".join((field.description or "").split())
            docs[field.arg_name] = f"{text[:1].upper()}{text[1:]}"
    return docs


def _hidden(group: Group) -> set[str]:
    """Settings and options that change nothing in the runs of an experiment; they are accepted, and not shown."""
    try:
        experiment = group.make()
    except UserError:  # another flag may put it right
        return set()
    hidden, alone = set(), not experiment.scenario.infers and not experiment.in_turn
    if not alone:
        hidden |= {"first_task", "tasks"}
    if not experiment.method.trains_weights(0):
        hidden.add("weights_learning_rate")
    hidden |= {"tasks_at_once"} if experiment.shares_batches else {"coordinator", "hosts", "host", "host_timeout"}
    given = {word.partition("=")[0] for word in sys.argv[1:]}
    return {name for name in hidden if flag_of(name) not in given}  # who gives it is told why it does not fit


def _of_run(hidden: set[str]) -> type[Any]:
    """The options beside the experiment's settings, as one dataclass; the hidden ones are left out of `--help`."""
    fields = [
        (field.name, Annotated[field.type, tyro.conf.Suppress], dataclasses.field(default=field.default))
        for field in dataclasses.fields(Options)
        if field.name in hidden
    ]
    made = dataclasses.make_dataclass("Run", fields, bases=(Options, Cluster), frozen=True)
    made.__doc__ = ""  # `--help` has a line for every flag, and no more
    return made


def _part_of(options: Any, kind: type[Any]) -> Any:
    """Those of some options that a dataclass has, as that dataclass."""
    return kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})


def _description(text: str | None) -> str | None:
    """What `--help` says of a script: its header without command and expectation, which `--help-verbose` adds."""
    if text is None or {"-H", "--help-verbose"} & {*sys.argv[1:]}:
        return text
    return text.split("\nCommand:")[0]


def _request(
    described: tuple[dict[str, Any], dict[str, Any]],
    swept: dict[str, tuple[Any, ...]],
    options: Options,
    cluster: Cluster,
) -> Request:
    """The runs that were asked for, given settings and objects as `composition.layout` takes them.

    Raises:
        UserError: if values are missing, come twice or are out of range, or options do not go together.
    """
    values, objects = described
    for name, given in swept.items():
        flag = flag_of(name)
        if not given:
            raise UserError(f"{flag} has no values; give one or more, such as {flag} {_EXAMPLES.get(name, '...')}")
        for value in given:
            if given.count(value) > 1:
                said = f"{value:g}" if isinstance(value, float) else value
                raise UserError(f"{flag} has {said} twice; give every value once")
    if options.gpu_sets and cluster.cluster:
        raise UserError("--gpu-sets is for runs on this machine, and --cluster for others; give one of them")
    seeds = [values["seed"]] if options.seeds is None else range(options.seeds)
    each = [
        composition.experiment_of(values | dict(zip(swept, combination, strict=True)) | {"seed": seed} | task, objects)
        for combination in itertools.product(*swept.values())
        for seed in seeds
        for task in _tasks_of(options)
    ]
    if (len(each) > 1 or options.gpu_sets or cluster.cluster) and hosts.is_distributed(options.coordinator):
        raise UserError("several hosts are for a single run; give one seed, one --sparsity, and no --gpu-sets")
    return Request(each, options, cluster, tuple(name for name in swept if name != "er_scale"))


def _tasks_of(options: Options) -> Iterator[dict[str, int]]:
    """The settings of the runs that `--tasks` makes of one."""
    if options.tasks is None:
        yield {}
        return
    tasks = parse_tasks(options.tasks)
    if len(tasks) > MOST_RUNS:
        raise UserError(f"--tasks {options.tasks} are too many runs; give at most {MOST_RUNS} at a time")
    yield from ({"first_task": task, "num_tasks": 1} for task in tasks)


def _config() -> Path | None:
    """The file that the command line gives with `--config`, which has to be read before all else."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path, nargs="?")
    config = finder.parse_known_args()[0].config
    return config and config.expanduser()
