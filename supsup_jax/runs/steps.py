"""One step of a run's checkpoints on disk: Orbax, with checksums of what a step says and of its arrays."""

import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from supsup_jax.errors import UserError, reason
from supsup_jax.system import interruption

UNFINISHED = ".orbax-checkpoint-tmp"
"""In the name of a checkpoint's folder until it is written whole."""


def save_step(manager: ocp.CheckpointManager, step: int, **items: Any) -> None:
    """Saves a step.

    Raises:
        UserError: if it cannot be written.
    """
    folder = Path(manager.directory)
    # What a process that was killed has left; Orbax would remove it too, with a warning on stderr.
    shutil.rmtree(folder / f"{step}{UNFINISHED}", ignore_errors=True)
    with interruption.delayed(), _quiet():
        try:
            if not folder.is_dir():  # Orbax would make it again, without the steps before
                raise FileNotFoundError("its folder is gone")
            if not manager.save(step, args=ocp.args.Composite(**items)):
                raise OSError("Orbax refuses it")
        except Exception as error:  # Orbax and the libraries below it raise many kinds for a full disk
            said = error.strerror if isinstance(error, OSError) else None
            why = said or " ".join(str(error).split()).split(" [")[0][-200:]  # the cause, then details in brackets
            raise UserError(
                f"{folder / str(step)} cannot be written ({why}); see to it that it can, and go on with --resume"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the threads of Orbax and TensorStore from writing tracebacks of what is raised here as well."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def save_with_record(manager: ocp.CheckpointManager, step: int, plain: dict[str, Any], arrays: PyTree[Any]) -> str:
    """Saves plain data and arrays, if there are any, with checksums of both; gives that of all."""
    if arrays:
        plain = plain | {"arrays_sha256": digest_of(arrays)}
    digest = digest_of_plain(plain)
    items: dict[str, Any] = {"record": ocp.args.JsonSave(plain | {"sha256": digest})}
    if arrays:
        items["arrays"] = ocp.args.StandardSave(arrays)
    save_step(manager, step, **items)
    return digest


def digest_of(tree: PyTree[Any]) -> str:
    """The SHA-256 of arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name, leaf in sorted(_by_name(tree).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).data)
    return digest.hexdigest()


def digest_of_plain(plain: dict[str, Any]) -> str:
    """The SHA-256 of plain data as JSON gives it back, which turns tuples into lists."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_record(manager: ocp.CheckpointManager, number: int) -> tuple[dict[str, Any], str]:
    """What a step says, and the checksum of that.

    Raises:
        UserError: if it cannot be read, or is not what was written.
    """
    plain, step = _read(manager, number, "record", ocp.args.JsonRestore()), _step(manager, number)
    if not isinstance(plain, dict):
        raise unusable(step, "it does not say what it holds")
    said, digest = plain.pop("sha256", None), digest_of_plain(plain)
    # Format 2 has none; nor must a damaged step pass for one of it.
    if said != digest and not (said is None and plain.get("format", 2) == 2):
        raise unusable(step, "its checksum is another: the file was damaged")
    return plain, digest


def read_arrays(manager: ocp.CheckpointManager, number: int, shapes: PyTree[Any], digest: str | None) -> Any:
    """The arrays of a step, on the host.

    Args:
        manager: of the step's folder.
        number: of the step.
        shapes: the shapes and types of the arrays.
        digest: their checksum, if it is known.

    Raises:
        UserError: if they cannot be read, or are others.
    """
    device, step = jax.sharding.SingleDeviceSharding(jax.devices()[0]), _step(manager, number)
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    # Orbax casts to the target's types without a word, so compare first.
    with readable(step):
        stored = manager.item_metadata(number)["arrays"].tree
    if _shapes_and_types(stored) != _shapes_and_types(target):
        raise unusable(step, "its arrays have other shapes or types than this run's")
    arrays = jax.device_get(_read(manager, number, "arrays", ocp.args.StandardRestore(target)))
    if digest is not None and digest != digest_of(arrays):
        raise unusable(step, "the checksum of its arrays is another: a file was damaged")
    return arrays


def _read(manager: ocp.CheckpointManager, number: int, item: str, args: ocp.args.CheckpointArgs) -> Any:
    with readable(_step(manager, number)):
        return manager.restore(number, args=ocp.args.Composite(**{item: args}))[item]


def _step(manager: ocp.CheckpointManager, number: int) -> Path:
    return Path(manager.directory) / str(number)


def check_files(folder: Path) -> None:
    """Checks that a folder of checkpoints holds files and folders alone.

    Raises:
        UserError: if it does not.
    """
    if strange := next(_no_files(folder), None):
        raise unusable(strange, "it is a link, or neither a file nor a folder")


def _no_files(folder: Path) -> Iterator[Path]:
    """What lies below a folder and is neither a file nor a folder: a link may lead anywhere, a pipe never ends.

    Checkpoints that another process is writing or removing meanwhile are left out: nobody reads them.
    """
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if UNFINISHED not in entry.name:
                    yield from _no_files(Path(entry))
            elif not entry.is_file(follow_symlinks=False):
                yield Path(entry)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns any error into one that says that a path cannot be read."""
    try:
        with _quiet():
            yield
    except Exception as error:  # Orbax and the libraries below it raise many kinds for a damaged file
        raise unusable(path, reason(error)) from error


class DamagedError(UserError):
    """A checkpoint that cannot be read."""


def unusable(path: Path, reason: str) -> DamagedError:
    """The error of a path that cannot be read."""
    return DamagedError(
        f"{path} cannot be read ({reason}); restore the folder from a copy, or start the run again without --resume"
    )


def named_arrays(bank: PyTree[Any], stats: PyTree[Any]) -> dict[str, Any]:
    """The arrays under their names; Orbax takes no empty tree."""
    named = {"store": bank, "stats": stats}
    return {name: tree for name, tree in named.items() if jax.tree.leaves(tree)}


def numbered(tree: PyTree[Any]) -> dict[str, Any]:
    """The leaves under their numbers: Orbax knows no optimiser's classes."""
    return {str(place): leaf for place, leaf in enumerate(jax.tree.leaves(tree))}


def _by_name(tree: PyTree[Any]) -> dict[str, Any]:
    """The leaves by names alone: what was a named tuple comes back as a dictionary."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _shapes_and_types(tree: PyTree[Any]) -> dict[str, Any]:
    return {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in _by_name(tree).items()}
