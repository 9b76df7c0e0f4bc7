"""The command line of an experiment script: its flags are the settings of the experiment's parts.

Flags that name a part, such as `--method`, are read first, since they decide which other flags exist.
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
from supsup_jax.cli.options import Options, parse_parts, parser_errors_as_user_errors
from supsup_jax.errors import ArgumentError, UserError
from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition, formats, reuse
from supsup_jax.runs.composition import Group
from supsup_jax.runs.settings import load_settings
from supsup_jax.system import hosts

Sweep = Mapping[str, Sequence[Any]]
"""Values of swept settings, by name: there is a run for each combination."""

_TRAINING = ("training", "optimizer")
_SECTIONS = {
    "experiment": lambda kind: kind not in _TRAINING,
    "training": lambda kind: kind in _TRAINING,
}
"""The groups of settings in `--help`, and which kinds of parts each has."""

_HELP = {
    "benchmark": "How tasks are derived from the data set.",
    "dataset": "The data set.",
    "network": "The network.",
    "initializer": "Distribution of the base weights; the original's `default` is pytorch_default.",
    "method": "How one network learns many tasks.",
    "scenario": "Whether the task is Given (G) or Not (N) in training and in inference; u: unshared labels, s: shared.",
    "search": "How the task of an image is inferred.",
    "objective": "Function of the outputs that is minimised to infer the task: entropy (H) or superfluous neurons (G).",
    "optimizer": "The optimizer; its state is reset for every task.",
    "er_scale": "Scales s of the masks' densities, one run for each: a layer of O outputs and I inputs keeps the "
    "fraction min(0.5, s (O + I) / (O I kh kw)) of its weights. Larger values are denser.",
    "density": "Fraction of weights that a mask keeps in every layer: the weights with the largest absolute scores.",
}
_FLAGS = {"er_scale": "sparsity"}
_ALIASES = {
    "dataset": "--source",
    "recovery_momentum": "--momentum",
    "recovery_weight_decay": "--weight-decay",
}
_EXAMPLES = {"er_scale": "16 32"}


class Request(NamedTuple):
    """The runs that a command line describes.

    Attributes:
        experiments: the experiment of each run.
        options: folders, devices and hosts.
        cluster: the cluster to submit to, if any.
        swept: names of the swept settings, except seed and densities.
    """

    experiments: list[Experiment]
    options: Options
    cluster: Cluster
    swept: tuple[str, ...]


def parse(experiment: Experiment, description: str | None, sweep: Sweep | None = None) -> Request:
    """Parse the command line.

    Args:
        experiment: the script's experiment.
        description: shown by `--help`.
        sweep: values of settings, a run for each combination; by default the experiment's `er_scale` alone, if it has
            one.

    Raises:
        SystemExit: for `--help`.
        UserError: if a flag does not exist, or its value has the wrong type or is out of range.
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
    groups = sections | {"run": _run_options(hidden)}
    arguments = dataclasses.make_dataclass(
        "Arguments",
        [(name, tyro.conf.OmitArgPrefixes[kind], dataclasses.field(default=kind())) for name, kind in groups.items()],
    )
    with parser_errors_as_user_errors():
        parsed: Any = tyro.cli(arguments, description=_description(description), compact_help=True)
    given = {name: value for section in sections for name, value in vars(getattr(parsed, section)).items()}
    for name in ("momentum", "weight_decay"):  # by default, a recovery uses the values of the training
        of_recovery = f"recovery_{name}"
        if given.get(name) != group.values.get(name) and given.get(of_recovery) == group.values.get(of_recovery):
            given[of_recovery] = given[name]
    swept = {name: given.pop(name) for name in sweep}
    with naming_flags():
        request = _request(
            (group.values | given, objects), swept, _part_of(parsed.run, Options), _part_of(parsed.run, Cluster)
        )
    _warn_of_evaluations(request.experiments)
    return request


def _warn_of_evaluations(experiments: Sequence[Experiment]) -> None:
    """Warn of values of `--eval-at` that are greater than the number of tasks."""
    if flag_of("eval_at") not in {word.partition("=")[0].replace("_", "-") for word in sys.argv[1:]}:
        return  # the script's values may be for more tasks than --num-tasks
    longest = max(experiment.num_tasks for experiment in experiments)
    beyond = sorted({count for experiment in experiments for count in experiment.evaluate_at if count > longest})
    if beyond:
        print(
            f"warning: --eval-at {' '.join(map(str, beyond))} is greater than --num-tasks {longest} and is ignored; "
            "all tasks are evaluated after the last one",
            file=sys.stderr,
        )


class naming_flags:  # noqa: N801 - a context manager
    """Make errors about settings name the settings' flags."""

    def __enter__(self) -> None: ...

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if isinstance(error, ArgumentError) and not error.argument.startswith("--"):
            raise error.renamed(flag_of(error.argument)) from None


def flag_of(setting: str) -> str:
    """Return the flag of a setting."""
    return "--" + _FLAGS.get(setting, setting).replace("_", "-")


def _chosen_parts() -> dict[str, Any]:
    """Return the parts that the command line names, which decide which other flags exist."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for key in map(formats.key_of, formats.KINDS):
        finder.add_argument(flag_of(key), *filter(None, [_ALIASES.get(key)]), dest=key, nargs="?")
    return {key: name for key, name in vars(finder.parse_known_args()[0]).items() if name is not None}


def _section(name: str, group: Group, sweep: Sweep, hidden: set[str]) -> type[Any]:
    """Return the flags of some parts, as a dataclass for tyro."""
    fields: list[tuple[str, Any, Any]] = []
    taken = {flag_of(setting.name) for part in group for setting in part.settings}
    for part in group:
        if not _SECTIONS[name](part.kind):
            continue
        if part.key:
            names = registry.names(part.kind)
            text = f"{_HELP[part.key]} One of {', '.join(names)}." if part.key in _HELP else ""
            fields.append(_flag(part.key, str, part.name, text, sweep, taken=taken, metavar="NAME"))
        docs = _docs(part.component)
        for setting in part.settings:
            if setting.name == "er_scale" and "er_scale" not in sweep:
                continue
            kind = Annotated[setting.type, tyro.conf.Suppress] if setting.name in hidden else setting.type
            text = _HELP.get(setting.name) or docs.get(setting.field, "")
            fields.append(_flag(setting.name, kind, setting.value, text, sweep, taken=taken))
    return dataclasses.make_dataclass(name.title(), fields, frozen=True)


def _flag(
    name: str, kind: Any, value: Any, text: str, sweep: Sweep, *, taken: set[str], metavar: str | None = None
) -> tuple[str, Any, Any]:
    """Return the dataclass field from which tyro makes a setting's flag; a swept setting takes several values."""
    if name in sweep:
        kind = float if name == "er_scale" else kind
        value = tuple(kind(each) if kind in (int, float) else each for each in sweep[name])
        kind, metavar = tuple[kind, ...], "S [S ...]" if name == "er_scale" else metavar
        text = text if name == "er_scale" else f"{text} Takes several values: one run for each."
    if value is None:  # a required setting that the script does not have: the part raises an error
        kind = kind | None
    aliases = [_ALIASES[name]] if name in _ALIASES and _ALIASES[name] not in taken else None
    argument = tyro.conf.arg(name=_FLAGS.get(name, name).replace("_", "-"), help=text, metavar=metavar, aliases=aliases)
    return name, Annotated[kind, argument], dataclasses.field(default=value)


def _docs(component: Any) -> dict[str, str]:
    """Return the description of each field of a part, from the docstrings of its class and base classes."""
    docs: dict[str, str] = {}
    for base in reversed(getattr(component, "__mro__", ())):
        for field in docstring_parser.parse(vars(base).get("__doc__") or "").params:
            text = " ".join((field.description or "").split())
            docs[field.arg_name] = f"{text[:1].upper()}{text[1:]}"
    return docs


def _hidden(group: Group) -> set[str]:
    """List settings and options without effect on an experiment: they are accepted, but not shown by `--help`."""
    try:
        experiment = group.make()
    except UserError:  # another flag may correct the value
        return set()
    hidden, tasks_are_independent = set(), not experiment.scenario.infers and not experiment.in_turn
    if not tasks_are_independent:
        hidden |= {"first_task", "tasks"}
    if not experiment.scenario.infers or not reuse.is_possible(experiment):
        hidden.add("learned_in")
    if not experiment.method.trains_weights(0):
        hidden.add("weights_learning_rate")
    hidden |= {"tasks_at_once"} if experiment.shares_batches else {"coordinator", "hosts", "host", "host_timeout"}
    given = {word.partition("=")[0] for word in sys.argv[1:]}
    return {name for name in hidden if flag_of(name) not in given}  # a given flag is shown


def _run_options(hidden: set[str]) -> type[Any]:
    """Return the options of scripts and clusters as one dataclass; `--help` does not show the hidden ones."""
    fields = [
        (field.name, Annotated[field.type, tyro.conf.Suppress], dataclasses.field(default=field.default))
        for field in dataclasses.fields(Options)
        if field.name in hidden
    ]
    options = dataclasses.make_dataclass("Run", fields, bases=(Options, Cluster), frozen=True)
    options.__doc__ = ""  # `--help` shows the flags only
    return options


def _part_of(options: Any, kind: type[Any]) -> Any:
    """Return the options that are fields of a dataclass, as an instance of it."""
    return kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})


def _description(text: str | None) -> str | None:
    """Return the description of a script in `--help`: its docstring, for `--help` without command and expectation."""
    if text is None or {"-H", "--help-verbose"} & {*sys.argv[1:]}:
        return text
    return text.split("\nCommand:")[0]


def _request(
    described: tuple[dict[str, Any], dict[str, Any]],
    swept: dict[str, tuple[Any, ...]],
    options: Options,
    cluster: Cluster,
) -> Request:
    """Return the requested runs, given settings and objects as `composition.layout` takes them.

    Raises:
        UserError: if values are missing, repeated or out of range, or options exclude each other.
    """
    values, objects = described
    for name, given in swept.items():
        flag = flag_of(name)
        if not given:
            raise UserError(f"{flag} has no values; give at least one, such as {flag} {_EXAMPLES.get(name, '...')}")
        for value in given:
            if given.count(value) > 1:
                shown = f"{value:g}" if isinstance(value, float) else value
                raise UserError(f"{flag}: {shown} is repeated; give every value once")
    if options.gpu_sets and cluster.cluster:
        raise UserError("--gpu-sets and --cluster exclude each other; give one of them")
    seeds = [values["seed"]] if options.seeds is None else range(options.seeds)
    each = [
        composition.experiment_of(values | dict(zip(swept, combination, strict=True)) | {"seed": seed} | task, objects)
        for combination in itertools.product(*swept.values())
        for seed in seeds
        for task in _tasks_of(options)
    ]
    if (len(each) > 1 or options.gpu_sets or cluster.cluster) and hosts.is_distributed(options.coordinator):
        raise UserError(
            "several hosts can share only a single run; give one seed, one --sparsity, and no --gpu-sets or --cluster"
        )
    if options.learned_in is not None and (len(each) > 1 or hosts.is_distributed(options.coordinator)):
        raise UserError("--learned-in is for a single run on one host; give one seed, and one value of each setting")
    if hosts.is_distributed(options.coordinator) and not each[0].shares_batches:
        raise UserError(
            "only experiments with --dataset imagenet can run on several hosts; for others, distribute runs over hosts "
            "with --seeds and --cluster slurm"
        )
    return Request(each, options, cluster, tuple(name for name in swept if name != "er_scale"))


def _tasks_of(options: Options) -> Iterator[dict[str, int]]:
    """Yield the settings of each run of `--tasks`, or no settings without `--tasks`."""
    if options.tasks is None:
        yield {}
    else:
        yield from ({"first_task": part.start, "num_tasks": len(part)} for part in parse_parts(options.tasks))


def _config() -> Path | None:
    """Return the file given with `--config`, which is read before the other flags."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path, nargs="?")
    config = finder.parse_known_args()[0].config
    return config and config.expanduser()
