"""Restoring of runs from disk."""

import os
from functools import partial
from pathlib import Path
from typing import Any, Literal, SupportsIndex, overload

from supsup_jax import arguments, registry
from supsup_jax.bank.files import BankFiles
from supsup_jax.data import Inputs, load_digits
from supsup_jax.data.arrays import NORMALISATION
from supsup_jax.errors import ArgumentError, UserError
from supsup_jax.experiment import Experiment
from supsup_jax.inference import on_disk
from supsup_jax.runs import bank_export, composition, formats, merging, results
from supsup_jax.runs.checkpoints import Checkpoints
from supsup_jax.runs.description import SHA256
from supsup_jax.runs.disk_run import DiskRun
from supsup_jax.runs.initial import stored
from supsup_jax.runs.run import Run
from supsup_jax.runs.settings import experiment_of, script_part_error
from supsup_jax.system import hosts, numerics
from supsup_jax.system.reading import read_stable


@overload
def restore(
    run_dir: str | os.PathLike[str],
    step: SupportsIndex | None = None,
    *,
    bank_on_disk: Literal[False] = False,
    **parts: Any,
) -> Run: ...
@overload
def restore(
    run_dir: str | os.PathLike[str],
    step: SupportsIndex | None = None,
    *,
    bank_on_disk: Literal[True] | str | os.PathLike[str],
    memory: SupportsIndex | None = None,
    **parts: Any,
) -> DiskRun: ...
@numerics.with_fixed_flags
def restore(
    run_dir: str | os.PathLike[str],
    step: SupportsIndex | None = None,
    *,
    bank_on_disk: bool | str | os.PathLike[str] = False,
    memory: SupportsIndex | None = None,
    **parts: Any,
) -> Run | DiskRun:
    """Restore a run from disk, on any machine, without its data set.

    Base weights are drawn from the run's seed, or read if tasks trained them or the user gave them.

    Args:
        run_dir: folder of a run, for example runs/quickstart/seed=1.
        step: number of the last checkpoint to read, counted from 0; by default all are read.
        bank_on_disk: whether to leave the masks on disk, where `runs.opening.export_bank` has written them; or the
            folder of the bank.
        memory: with `bank_on_disk`: limit in bytes of what an inference holds; by default 1 GiB.
        parts: custom parts that have no registered name: `network=`, `method=`, `search=` and so on.

    Returns:
        The run; with `bank_on_disk`, one that infers and predicts, but does not learn.

    Raises:
        UserError: if the folder does not contain a run, or the run is damaged or needs other parts; with
            `bank_on_disk`, if it has no bank on disk, or one of other tasks.
    """
    folder = arguments.path("run_dir", run_dir)
    last = None if step is None else arguments.integer("step", step)
    if memory is not None and bank_on_disk is False:
        raise ArgumentError("memory", memory, "requires bank_on_disk=True")
    read = merging.places(folder)
    # Another process may be training the run.
    if bank_on_disk is False:
        if hosts.count() > 1:  # the first host reads; hosts that tried again on their own would wait for each other
            return _restore(folder, last, parts)[0]
        return read_stable(lambda: _restore(folder, last, parts)[0], read)
    place = folder / bank_export.FOLDER if bank_on_disk is True else arguments.path("bank_on_disk", bank_on_disk)
    limit = on_disk.MEMORY if memory is None else arguments.integer("memory", memory)
    run, source = read_stable(lambda: _restore(folder, last, parts, with_tasks=False), read)
    bank_export.check(run)
    bank = BankFiles(place)
    bank.check(run.weights, source)
    on_disk.sizes_within(limit, bank)
    return DiskRun(run, bank, limit)


@numerics.with_fixed_flags
def export_bank(
    run_dir: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, memory: SupportsIndex | None = None
) -> Path:
    """Write the masks of a run as a bank on disk, for `restore(..., bank_on_disk=True)`, and return its folder.

    The checkpoints are read one at a time. A bank in the folder is replaced when the new one is complete.

    Args:
        run_dir: folder of a run.
        output: folder of the bank; by default `bank` in the run's folder.
        memory: limit in bytes of the masks in memory, unless a single checkpoint takes more; by default 1 GiB.

    Raises:
        UserError: if the run cannot be read, is in use, or has no masks as bits, or the disk is too small.
    """
    folder = arguments.path("run_dir", run_dir)
    place = folder / bank_export.FOLDER if output is None else arguments.path("output", output)
    run, _ = _restore(folder, None, {}, with_tasks=False)
    bank_export.write_bank(run, place, on_disk.MEMORY if memory is None else arguments.integer("memory", memory))
    return place


def _restore(
    folder: Path, step: int | None, parts: dict[str, Any], *, with_tasks: bool = True
) -> tuple[Run, str | None]:
    """Restore a run from the current files of its folder, and return it with the checksum of tasks that are not read.

    Raises:
        UserError: if the files cannot be read.
    """
    if not hosts.broadcast(lambda: results.has_checkpoints(folder)):
        if hosts.broadcast((folder / results.SETTINGS).is_file):
            raise _no_checkpoint(folder)
        raise UserError(
            f"{folder} does not contain a run's checkpoints; give the folder of one run, such as runs/quickstart/seed=1"
        )
    with Checkpoints(folder) as checkpoints:
        metadata = hosts.broadcast(lambda: checkpoints.records(step))
        if not metadata:
            raise _no_checkpoint(folder)
        recorded = metadata[0]["experiment"]
        _check(folder, recorded, parts)
        objects = {
            kind: part for given in parts for kind, part in composition.objects_of(parts[given], given).items()
        } | parts
        try:
            experiment = experiment_of(recorded, folder / "checkpoints/0", objects)
        except registry.UnknownPartError as error:
            raise script_part_error(folder, error) from None
        inputs = Inputs.from_json(metadata[0]["inputs"]) if "inputs" in metadata[0] else _inputs_of_format_2(experiment)
        sha256 = metadata[0].get(SHA256)
        run = Run(experiment, inputs, None if sha256 is None else partial(stored, sha256=sha256))
        if with_tasks:
            run.read(checkpoints, step)
            return run, None
        step = len(metadata) - 1  # another process may add checkpoints now
        run.read(checkpoints, step, with_tasks=False)
        return run, checkpoints.digest_of_tasks(step)


def _no_checkpoint(folder: Path) -> UserError:
    """Return the error for a run that is being trained, or was interrupted, before its first checkpoint."""
    return UserError(
        f"{folder} has no checkpoint yet; wait for the first one, or resume the run if it was interrupted: "
        f"python -m supsup_jax run {folder}"
    )


def _check(folder: Path, recorded: dict[str, Any], parts: dict[str, Any]) -> None:
    """Check that the given parts are the ones that the run needs.

    Raises:
        UserError: if a part is missing, or differs from the run's part.
    """
    for kind, part in parts.items():
        if kind not in (*formats.KINDS, "mask"):
            raise UserError(f"there is no argument {kind}; give one of {', '.join(formats.KINDS)}")
        if isinstance(part, type | str) or not (callable(part) or hasattr(part, "kind")):
            raise arguments.wrong_type(kind, part, "an instance, equal to the one that the run was learned with")
        name = recorded.get(formats.key_of(kind))
        if name != registry.name_of(kind, part):
            given = registry.name_of(kind, part)
            raise UserError(f"{folder} was learned with the {kind} {name}, not {given}; leave {kind} out")
        for setting, value in composition.plain(part, kind).items():
            if setting not in formats.LONGER and recorded.get(setting, value) != value:
                raise UserError(
                    f"{folder} was learned with {setting} {recorded[setting]}, not {value}; give {kind}=... with this "
                    "value"
                )
    if recorded.get("network") == "own" and "network" not in parts and registry.offered("network", "own") is None:
        raise UserError(f"{folder} was learned with a custom network; pass it as network=...")


def _inputs_of_format_2(experiment: Experiment) -> Inputs:
    """Return the inputs of a run whose checkpoints do not store them."""
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
