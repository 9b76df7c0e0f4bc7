"""Reading and writing one checkpoint with Orbax, with checksums of its metadata and its arrays."""

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
"""Part of the name of a checkpoint's folder while it is being written."""


def save_step(manager: ocp.CheckpointManager, step: int, **items: Any) -> None:
    """Save a checkpoint.

    Raises:
        UserError: if the checkpoint cannot be written.
    """
    folder = Path(manager.directory)
    # Remove what a killed process has left behind; Orbax would do so too, but with a warning on stderr.
    shutil.rmtree(folder / f"{step}{UNFINISHED}", ignore_errors=True)
    with interruption.delayed(), _quiet():
        try:
            if not folder.is_dir():  # Orbax would create it again, without the previous checkpoints
                raise FileNotFoundError("its folder has been removed")
            if not manager.save(step, args=ocp.args.Composite(**items)):
                raise OSError("Orbax rejected it")
        except Exception as error:  # Orbax and its dependencies raise many exception types for a full disk
            cause = error.strerror if isinstance(error, OSError) else None
            cause = cause or " ".join(str(error).split()).split(" [")[0][-200:]  # details follow in brackets
            raise UserError(
                f"{folder / str(step)} cannot be written ({cause}); fix the cause, then continue with --resume"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress tracebacks from the threads of Orbax and TensorStore; their errors are raised here as well."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def save_with_record(manager: ocp.CheckpointManager, step: int, plain: dict[str, Any], arrays: PyTree[Any]) -> str:
    """Save metadata and arrays with checksums of both, and return the checksum of the metadata.

    The metadata includes the checksum of the arrays.
    """
    if arrays:
        plain = plain | {"arrays_sha256": digest_of(arrays)}
    digest = digest_of_plain(plain)
    items: dict[str, Any] = {"record": ocp.args.JsonSave(plain | {"sha256": digest})}
    if arrays:
        items["arrays"] = ocp.args.StandardSave(arrays)
    save_step(manager, step, **items)
    return digest


def digest_of(tree: PyTree[Any]) -> str:
    """Return the SHA-256 checksum of arrays, sorted by name."""
    digest = hashlib.sha256()
    for name, leaf in sorted(_by_name(tree).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).data)
    return digest.hexdigest()


def digest_of_plain(plain: dict[str, Any]) -> str:
    """Return the SHA-256 checksum of plain data, encoded as JSON, which turns tuples into lists."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_record(manager: ocp.CheckpointManager, number: int) -> tuple[dict[str, Any], str]:
    """Return the metadata of a checkpoint, and its checksum.

    Raises:
        UserError: if the metadata cannot be read, or its checksum is wrong.
    """
    plain, step = _read(manager, number, "record", ocp.args.JsonRestore()), _step(manager, number)
    if not isinstance(plain, dict):
        raise unusable(step, "its metadata is incomplete")
    stored, digest = plain.pop("sha256", None), digest_of_plain(plain)
    # Format 2 has no checksum, but a damaged checkpoint of format 3 must not pass as format 2.
    if stored != digest and not (stored is None and plain.get("format", 2) == 2):
        raise unusable(step, "checksum mismatch: the metadata is damaged")
    return plain, digest


def read_arrays(manager: ocp.CheckpointManager, number: int, shapes: PyTree[Any], digest: str | None) -> Any:
    """Return the arrays of a checkpoint, on the host.

    Args:
        manager: manager of the checkpoint's folder.
        number: number of the checkpoint.
        shapes: expected shapes and dtypes of the arrays.
        digest: expected checksum of the arrays; `None` if it is not known.

    Raises:
        UserError: if the arrays cannot be read, or shapes, dtypes or the checksum are wrong.
    """
    device, step = jax.sharding.SingleDeviceSharding(jax.devices()[0]), _step(manager, number)
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    # Orbax silently casts to the dtypes of the target, so compare them first.
    with readable(step):
        stored = manager.item_metadata(number)["arrays"].tree
    if _shapes_and_types(stored) != _shapes_and_types(target):
        raise unusable(step, "shapes or dtypes of its arrays differ from those of this run")
    arrays = jax.device_get(_read(manager, number, "arrays", ocp.args.StandardRestore(target)))
    if digest is not None and digest != digest_of(arrays):
        raise unusable(step, "checksum mismatch: its arrays are damaged")
    return arrays


def _read(manager: ocp.CheckpointManager, number: int, item: str, args: ocp.args.CheckpointArgs) -> Any:
    with readable(_step(manager, number)):
        return manager.restore(number, args=ocp.args.Composite(**{item: args}))[item]


def _step(manager: ocp.CheckpointManager, number: int) -> Path:
    return Path(manager.directory) / str(number)


def check_files(folder: Path) -> None:
    """Check that a folder of checkpoints contains only regular files and folders.

    Raises:
        UserError: if it contains anything else.
    """
    if special := next(_special_files(folder), None):
        raise unusable(special, "it is a link or a special file")


def _special_files(folder: Path) -> Iterator[Path]:
    """List links and special files below a folder: a link may lead anywhere, and reading a pipe may never end.

    Checkpoints that another process is writing or removing are skipped, since they are never read.
    """
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if UNFINISHED not in entry.name:
                    yield from _special_files(Path(entry))
            elif not entry.is_file(follow_symlinks=False):
                yield Path(entry)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Convert any exception into an error that says that the path cannot be read."""
    try:
        with _quiet():
            yield
    except Exception as error:  # Orbax and its dependencies raise many exception types for a damaged file
        raise unusable(path, reason(error)) from error


class DamagedError(UserError):
    """Error: a checkpoint cannot be read."""


def unusable(path: Path, reason: str) -> DamagedError:
    """Return the error for a path that cannot be read."""
    return DamagedError(
        f"{path} cannot be read ({reason}); restore the folder from a copy, or start the run again without --resume"
    )


def named_arrays(bank: PyTree[Any], stats: PyTree[Any]) -> dict[str, Any]:
    """Return bank and statistics by name, without empty trees, which Orbax rejects."""
    named = {"store": bank, "stats": stats}
    return {name: tree for name, tree in named.items() if jax.tree.leaves(tree)}


def numbered(tree: PyTree[Any]) -> dict[str, Any]:
    """Return the leaves of a tree by number, because Orbax cannot store the classes of optimizer states."""
    return {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(tree))}


def _by_name(tree: PyTree[Any]) -> dict[str, Any]:
    """Return the leaves of a tree by path; named tuples and the dictionaries that Orbax restores get the same paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _shapes_and_types(tree: PyTree[Any]) -> dict[str, Any]:
    return {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in _by_name(tree).items()}
