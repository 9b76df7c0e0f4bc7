"""An experiment's settings from files: YAML that a person writes, or what an earlier run left in its folder."""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typeguard

from supsup_jax.data import Dataset
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.runs import results
from supsup_jax.system.yaml import read_yaml


def load_experiment(path: Path) -> Experiment:
    """Reads an experiment's settings from a YAML file; those that it does not name have their defaults.

    Raises:
        UserError: if it cannot be read, names no name, or names or sets what does not exist or is out of range.
    """
    settings = load_settings(path)
    if "name" not in settings:
        raise UserError(f"{path} sets no name; give it one, such as name: {path.stem}")
    return Experiment(**settings)


def load_settings(path: Path) -> dict[str, Any]:
    """Reads fields of an experiment from a YAML file, as `dataclasses.replace` takes them; `sparsity` is `er_scale`.

    Raises:
        UserError: if it cannot be read, or names or sets what does not exist.
    """
    try:
        plain = read_yaml(path)
    except ValueError as error:
        raise UserError(
            f"{path} is not YAML ({error}); give a file with a setting a line, such as steps: 1000"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a YAML file with settings") from None
    if not isinstance(plain, dict) or not all(isinstance(key, str) for key in plain):
        raise UserError(f"{path} does not hold settings; give a setting a line, such as steps: 1000")
    return fields_of(plain, path)


_IN_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number, which YAML knows by its point, as in 1.0e-4",
    float | None: "a number",
    int | None: "a whole number",
    str: "text",
    tuple[int, ...]: "a list of whole numbers",
}


def fields_of(plain: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields of an experiment from plain data; `sparsity` is `er_scale`.

    Args:
        plain: settings by name.
        path: where they were read.

    Raises:
        UserError: if a name does not exist, or its value is of another type.
    """
    types = get_type_hints(Experiment)
    types["sparsity"] = types.pop("er_scale")
    fields = {}
    for name, value in plain.items():
        if name not in types:
            known = {name: name for name in types} | {"er_scale": "sparsity"}
            (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise UserError(f"{path} sets {name}, which does not exist; did you mean {known[nearest]}?")
        field = "er_scale" if name == "sparsity" else name
        fields[field] = tuple(value) if isinstance(value, list) else value
        if isinstance(value, int) and not isinstance(value, bool) and types[name] in (float, float | None):
            fields[field] = float(value)
        try:
            every = typeguard.CollectionCheckStrategy.ALL_ITEMS
            typeguard.check_type(fields[field], types[name], collection_check_strategy=every)
            fits = types[name] is bool or not isinstance(value, bool)  # Python takes true for 1
        except typeguard.TypeCheckError:
            fits = False
        if not fits:
            one_of = f"one of {', '.join(map(str, get_args(types[name])))}"
            raise UserError(f"{path} sets {name} to {value!r}; it takes {_IN_WORDS.get(types[name], one_of)}")
    return fields


def experiment_of(plain: dict[str, Any], path: Path) -> Experiment:
    """An experiment from plain data, as `Experiment.to_json` gives it.

    Args:
        plain: settings by the names of their fields.
        path: where they were read.

    Raises:
        UserError: if a name does not exist, or its value is of another type or out of range.
    """
    return Experiment(**fields_by_name(plain, path))


def fields_by_name(plain: dict[str, Any], path: Path) -> dict[str, Any]:
    """As `fields_of`, of settings that are called as the fields are, `er_scale` too."""
    return fields_of({"sparsity" if name == "er_scale" else name: value for name, value in plain.items()}, path)


def write_run(
    folder: Path,
    experiment: Experiment,
    dataset: Dataset,
    options: Mapping[str, Any],
    command: Sequence[str] | None = None,
) -> None:
    """Writes the `settings.yaml` of a run: what it takes to start it, from anywhere.

    Args:
        folder: the run's folder.
        experiment: what it computes.
        dataset: its data set.
        options: where it reads and writes, and how.
        command: how it was called; by default as this process was.
    """
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    plain["data"] = os.path.abspath(os.path.expanduser(plain["data"]))
    densities = experiment.densities(dataset)
    whole = {"experiment": experiment.to_json(), "options": plain, "densities": densities}
    results.write_settings(folder, whole, command)


def read_run(folder: Path) -> tuple[Experiment, dict[str, Any], list[str] | None]:
    """What the `settings.yaml` of a run says: its experiment, the options beside it, and how it was called.

    Raises:
        UserError: if the folder does not hold a run's settings.
    """
    path = folder / "settings.yaml"
    settings = results.read_settings(folder)
    options = settings.get("options")
    if options is None or not {"data", "tasks_at_once"} <= options.keys():
        raise UserError(f"{path} does not hold the settings of a run; give the folder of a run")
    return experiment_of(settings["experiment"], path), options, settings.get("command")
