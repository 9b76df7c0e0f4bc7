"""Opens runs from disk."""

import os
from pathlib import Path
from typing import Any, SupportsIndex

from supsup_jax import arguments, registry
from supsup_jax.data import Inputs, load_digits
from supsup_jax.data.arrays import NORMALISATION
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.runs import composition, formats
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.run import Run
from supsup_jax.runs.settings import elsewhere, experiment_of
from supsup_jax.system import numerics
from supsup_jax.system.reading import read_stable


@numerics.with_fixed_flags
def restore(run_dir: str | os.PathLike[str], step: SupportsIndex | None = None, **parts: Any) -> Run:
    """Opens a run, on whatever machine, without its data set.

    Base weights are drawn anew from the run's seed, or read where they were trained.

    Args:
        run_dir: the folder of a run, such as runs/quickstart/seed=1.
        step: how far to read its checkpoints, which are numbered from 0; by default to the last.
        parts: parts of your own that have no name: `network=`, `method=`, `search=` and so on.

    Raises:
        UserError: if the folder holds no run, or one that is damaged or needs other parts.
    """
    folder = arguments.path("run_dir", run_dir)
    last = None if step is None else arguments.integer("step", step)
    read = [folder, *(folder / name for name in ("checkpoints", "state"))]
    return read_stable(lambda: _restore(folder, last, parts), read)  # it may be learning in another process


def _restore(folder: Path, step: int | None, parts: dict[str, Any]) -> Run:
    """Opens a run as its folder is now.

    Raises:
        UserError: if that cannot be read.
    """
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} holds no run; give a folder with checkpoints in it, such as runs/quickstart/seed=1")
    with Checkpoints(folder) as checkpoints:
        said = checkpoints.records(step)
        if not said:
            raise UserError(f"{folder} has no checkpoint yet; wait for one, or give another run")
        recorded = said[0]["experiment"]
        _check(folder, recorded, parts)
        objects = {
            kind: part for given in parts for kind, part in composition.objects_of(parts[given], given).items()
        } | parts
        try:
            experiment = experiment_of(recorded, folder / "checkpoints/0", objects)
        except registry.UnknownPartError as error:
            raise elsewhere(folder, error) from None
        inputs = Inputs.from_json(said[0]["inputs"]) if "inputs" in said[0] else _inputs_of_format_2(experiment)
        run = Run(experiment, inputs)
        run.read(checkpoints, step)
    return run


def _check(folder: Path, recorded: dict[str, Any], parts: dict[str, Any]) -> None:
    """Checks that parts are handed in where a run needs them, and only there.

    Raises:
        UserError: if one is missing, or the run has another one.
    """
    for kind, part in parts.items():
        if kind not in (*formats.KINDS, "mask"):
            raise UserError(f"there are no parts of the kind {kind}; give one of {', '.join(formats.KINDS)}")
        if isinstance(part, type | str) or not (callable(part) or hasattr(part, "kind")):
            raise arguments.wrong_type(kind, part, "an instance, as the run was learned with")
        name = recorded.get(formats.key_of(kind))
        if name != registry.name_of(kind, part):
            given = registry.name_of(kind, part)
            raise UserError(f"{folder} was learned with the {kind} {name}, not {given}; leave {kind} out")
        for setting, value in composition.plain(part, kind).items():
            if setting not in formats.LONGER and recorded.get(setting, value) != value:
                raise UserError(
                    f"{folder} was learned with {setting} {recorded[setting]}, not {value}; give {kind}=... with that"
                )
    if recorded.get("network") == "own" and "network" not in parts and registry.offered("network", "own") is None:
        raise UserError(f"{folder} was learned with a network that is not this package's; give it as network=...")


def _inputs_of_format_2(experiment: Experiment) -> Inputs:
    """What images are to a run whose checkpoints do not say it."""
    settings = composition.settings_of(experiment)
    dataset = settings["dataset"]
    classes = {"SplitCIFAR100": 5, "SplitImageNet": 10}.get(settings["benchmark"], 100 if dataset == "cifar100" else 10)
    if dataset == "digits":
        digits = load_digits()
        return Inputs(digits.image_shape, digits.mean, digits.std, classes)
    size = settings.get("image_size", 224)
    shapes = {"mnist": (28, 28, 1), "cifar100": (32, 32, 3), "imagenet": (size, size, 3)}
    mean, std = NORMALISATION[dataset]
    return Inputs(shapes[dataset], mean, std, classes)
