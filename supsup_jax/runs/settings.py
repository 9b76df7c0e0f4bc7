"""Settings of an experiment from files: YAML written by users, or the `settings.yaml` of a run."""

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
    """Read an experiment from a YAML file; missing settings have their defaults.

    Raises:
        UserError: if the file cannot be read, does not set `name`, or has an unknown name or an invalid value.
    """
    settings = load_settings(path)
    if "name" not in settings:
        raise UserError(f"{path} sets no name; give it one, such as name: {path.stem}")
    return _build(settings, path)


def load_settings(path: Path, objects: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read settings by flat name from a YAML file; `sparsity` is renamed to `er_scale`.

    Args:
        path: the file: one setting per line, or the `settings.yaml` of a run, whose other parts are ignored.
        objects: parts by kind; see `composition.layout`.

    Raises:
        UserError: if the file cannot be read, or has an unknown name or a value of the wrong type.
    """
    try:
        plain = read_yaml(path)
    except ValueError as error:
        raise UserError(
            f"{path} is not YAML ({error}); give a file with one setting per line, such as steps: 1000"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a YAML file with settings") from None
    if is_of_run := isinstance(plain, dict) and {"experiment", "options"} <= plain.keys():  # written by `text_of`
        plain = plain["experiment"]
    if not isinstance(plain, dict) or not all(isinstance(key, str) for key in plain):
        raise UserError(f"{path} does not contain settings; give one setting per line, such as steps: 1000")
    if "er_scale" in plain and not is_of_run:
        raise UserError(f"{path} sets er_scale, which does not exist; did you mean sparsity?")
    return checked(plain, path, objects)


_IN_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number, which YAML recognises by its decimal point, as in 1.0e-4",
    float | None: "a number",
    int | None: "an integer",
    str: "text",
    tuple[int, ...]: "a list of integers",
}


def checked(plain: Mapping[str, Any], path: Path, objects: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return settings by flat name with checked types; `sparsity` is renamed to `er_scale`.

    Args:
        plain: settings by name.
        path: file they come from.
        objects: parts by kind; see `composition.layout`.

    Raises:
        UserError: if a name does not exist, or a value has the wrong type.
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
            fits = kind in (bool, Any) or not isinstance(value, bool)  # a bool is an int in Python
        except typeguard.TypeCheckError:
            fits = False
        if not fits:
            expected = _IN_WORDS.get(kind, f"one of {', '.join(map(str, get_args(kind)))}")
            shown = "sparsity" if name == "er_scale" else name
            raise UserError(f"{path} sets {shown} to {plain[name]!r}; it takes {expected}")
        settings[name] = value
    return settings


def experiment_of(plain: Mapping[str, Any], path: Path, objects: Mapping[str, Any] | None = None) -> Experiment:
    """Return the experiment that a run of any version recorded.

    Args:
        plain: settings of the experiment by flat name.
        path: file they come from.
        objects: parts by kind; see `composition.layout`.

    Raises:
        UserError: if a name does not exist, or a value has the wrong type or is out of range.
    """
    return _build(checked(plain, path, objects), path, objects)


def _build(settings: Mapping[str, Any], path: Path, objects: Mapping[str, Any] | None = None) -> Experiment:
    """Return the experiment with checked settings.

    Raises:
        UserError: if a value is out of range, or parts do not fit together.
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
    """Return the contents of a run's `settings.yaml`: everything needed to start the run from any folder.

    Args:
        experiment: the experiment.
        dataset: its data set.
        options: paths and other options that do not change results.
        command: the command that started the run; by default the one of this process.
    """
    return results.settings_text(_plain(experiment, dataset, options), command)


def write_run(
    folder: Path,
    experiment: Experiment,
    dataset: Dataset,
    options: Mapping[str, Any],
    command: Sequence[str] | None = None,
) -> None:
    """Write the `settings.yaml` of a run into its folder; for the other arguments, see `text_of`."""
    results.write_settings(folder, _plain(experiment, dataset, options), command)


def _plain(experiment: Experiment, dataset: Dataset, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the experiment, its options and its densities as plain data."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    for name in ("data", "learned_in"):
        if plain.get(name) is not None:
            plain[name] = os.path.abspath(os.path.expanduser(plain[name]))
    densities = experiment.densities(dataset)
    return {"experiment": composition.plain(experiment), "options": plain, "densities": densities}


def read_run(folder: Path) -> tuple[Experiment, dict[str, Any], list[str] | None]:
    """Return the experiment, the options and the command in the `settings.yaml` of a run.

    Raises:
        UserError: if the folder does not contain the settings of a run.
    """
    path = folder / "settings.yaml"
    settings = results.read_settings(folder)
    options = settings.get("options")
    if options is None or not {"data", "tasks_at_once"} <= options.keys():
        raise UserError(f"{path} does not contain the settings of a run; give the folder of a run")
    try:
        return experiment_of(settings["experiment"], path), options, settings.get("command")
    except registry.UnknownPartError as error:
        raise script_part_error(folder, error) from None


def script_part_error(folder: Path, error: registry.UnknownPartError) -> UserError:
    """Return the error for a run with a part that is defined in a script, which this process has not loaded.

    Args:
        folder: folder of the run.
        error: names the missing part.
    """
    try:
        program = (results.read_settings(folder).get("command") or [""])[0]
    except UserError:
        program = ""
    script = program if program.endswith(".py") and not program.endswith("__main__.py") else "SCRIPT.py"
    return UserError(
        f"{folder} uses the {error.kind} {error.name}, which is defined in the script that created the run; run the "
        f"command with that script, as in python {script} run {folder}, or in Python pass the part: restore(folder, "
        f"{error.kind}=...)"
    )
