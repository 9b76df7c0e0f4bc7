"""An experiment's settings from files: YAML that a person writes, or what an earlier run left in its folder."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import typeguard

from supsup_jax import registry
from supsup_jax.data import Dataset
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition, results
from supsup_jax.system.yaml import read_yaml


def load_experiment(path: Path) -> Experiment:
    """Reads an experiment from a YAML file; settings that it does not name have their defaults.

    Raises:
        UserError: if it cannot be read, names no name, or names or sets what does not exist or is out of range.
    """
    settings = load_settings(path)
    if "name" not in settings:
        raise UserError(f"{path} sets no name; give it one, such as name: {path.stem}")
    return _made(settings, path)


def load_settings(path: Path, objects: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Reads settings by flat name from a YAML file; `sparsity` is `er_scale`.

    Args:
        path: the file.
        objects: parts by kind, as `composition.layout` takes them.

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
    if "er_scale" in plain:
        raise UserError(f"{path} sets er_scale, which does not exist; did you mean sparsity?")
    return checked(plain, path, objects)


_IN_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number, which YAML knows by its point, as in 1.0e-4",
    float | None: "a number",
    int | None: "a whole number",
    str: "text",
    tuple[int, ...]: "a list of whole numbers",
}


def checked(plain: Mapping[str, Any], path: Path, objects: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings by flat name, of the right types; `sparsity` is `er_scale`.

    Args:
        plain: settings by name.
        path: where they were read.
        objects: parts by kind, as `composition.layout` takes them.

    Raises:
        UserError: if a name does not exist, or its value is of another type.
    """
    plain = {"er_scale" if name == "sparsity" else name: value for name, value in plain.items()}
    settings: dict[str, Any] = {}
    for name, kind in composition.types_of(plain, objects, path).items():
        value = tuple(plain[name]) if isinstance(plain[name], list) else plain[name]
        if isinstance(value, int) and not isinstance(value, bool) and kind in (float, float | None):
            value = float(value)
        try:
            every = typeguard.CollectionCheckStrategy.ALL_ITEMS
            typeguard.check_type(value, kind, collection_check_strategy=every)
            fits = kind in (bool, Any) or not isinstance(value, bool)  # Python takes true for 1
        except typeguard.TypeCheckError:
            fits = False
        if not fits:
            one_of = f"one of {', '.join(map(str, get_args(kind)))}"
            called = "sparsity" if name == "er_scale" else name
            raise UserError(f"{path} sets {called} to {plain[name]!r}; it takes {_IN_WORDS.get(kind, one_of)}")
        settings[name] = value
    return settings


def experiment_of(plain: Mapping[str, Any], path: Path, objects: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment that a run recorded, in any version.

    Args:
        plain: its settings by flat name.
        path: where they were read.
        objects: parts by kind, as `composition.layout` takes them.

    Raises:
        UserError: if a name does not exist, or its value is of another type or out of range.
    """
    return _made(checked(plain, path, objects), path, objects)


def _made(settings: Mapping[str, Any], path: Path, objects: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of settings that a file has.

    Raises:
        UserError: if they are out of range, or do not fit together.
    """
    try:
        return composition.experiment_of(settings, objects)
    except registry.UnknownPartError:
        raise
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def text_of(
    experiment: Experiment, dataset: Dataset, options: Mapping[str, Any], command: Sequence[str] | None = None
) -> str:
    """The `settings.yaml` of a run: what it takes to start it, from anywhere.

    Args:
        experiment: what it computes.
        dataset: its data set.
        options: where it reads and writes, and how.
        command: how it was called; by default as this process was.
    """
    return results.settings_text(_plain(experiment, dataset, options), command)


def write_run(
    folder: Path,
    experiment: Experiment,
    dataset: Dataset,
    options: Mapping[str, Any],
    command: Sequence[str] | None = None,
) -> None:
    """Writes the `settings.yaml` of a run into its folder; other arguments are those of `text_of`."""
    results.write_settings(folder, _plain(experiment, dataset, options), command)


def _plain(experiment: Experiment, dataset: Dataset, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a run computes, and where it reads and writes, as plain data."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    plain["data"] = os.path.abspath(os.path.expanduser(plain["data"]))
    densities = experiment.densities(dataset)
    return {"experiment": composition.plain(experiment), "options": plain, "densities": densities}


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
    try:
        return experiment_of(settings["experiment"], path), options, settings.get("command")
    except registry.UnknownPartError as error:
        raise elsewhere(folder, error) from None


def elsewhere(folder: Path, error: registry.UnknownPartError) -> UserError:
    """The error of a run with a part that is defined in a script, which this process has not loaded.

    Args:
        folder: the run's folder.
        error: says which part.
    """
    try:
        called = (results.read_settings(folder).get("command") or [""])[0]
    except UserError:
        called = ""
    script = called if called.endswith(".py") and not called.endswith("__main__.py") else "SCRIPT.py"
    return UserError(
        f"{folder} has the {error.kind} {error.name}, which its own script defines; give the command to the script, as "
        f"in python {script} run {folder}, or in Python pass the part: restore(folder, {error.kind}=...)"
    )
