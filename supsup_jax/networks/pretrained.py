"""Weights of trained networks: read them from files as base weights, and write them.

Three formats are read: safetensors, Flax's msgpack (`flax.serialization.to_bytes`), and folders of Orbax checkpoints.
Their files cannot execute code.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Key, PyTree

from supsup_jax import arguments
from supsup_jax.errors import ArgumentError, UserError, reason, warn
from supsup_jax.networks.network import Network, Rotated, Stats, Weights
from supsup_jax.system import atomic, extras

Arrays = dict[str, np.ndarray]
"""Arrays by path, such as `conv1/kernel` or `params/conv1/kernel`."""

_COLLECTIONS = {"params", "batch_stats"}

_PICKLED = (".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth")

_FORMATS = "a .safetensors file, a file of flax.serialization.to_bytes, or the folder of an Orbax checkpoint"


def load_weights(
    base_weights: str | os.PathLike[str] | PyTree[Any], net: Network, key: Key[Array, ""]
) -> tuple[Weights, Stats]:
    """Return trained weights and batch-norm statistics for a network.

    They have the structure of `net.init(key)`: a tree of the weights alone, or `{"params": ..., "batch_stats": ...}`.
    In safetensors, the parts of a path are joined by "/" or ".". If the last layer, `net.head`, differs or is missing,
    it is drawn, as are all weights by default. Everything else must be complete.

    Args:
        base_weights: a file, the folder of an Orbax checkpoint, or a pytree in memory.
        net: the network.
        key: random key for the last layer.

    Raises:
        UserError: if a file cannot be read, or the weights do not fit the network.
    """
    return fit(arrays_of(base_weights), net, key, shown(base_weights))


def save_weights(path: str | os.PathLike[str], weights: Weights, stats: Stats | None = None) -> None:
    """Write weights and batch-norm statistics to a file that `load_weights` reads.

    Args:
        path: the file; in safetensors if its name ends in .safetensors, otherwise in msgpack.
        weights: weights, or effective weights of a task.
        stats: batch-norm statistics of the task, if there are any.

    Raises:
        UserError: if safetensors is not installed.
        OSError: if the file cannot be written.
    """
    target = arguments.path("path", path)
    plain = jax.tree.map(
        lambda leaf: leaf.rotation @ leaf.kernel if isinstance(leaf, Rotated) else leaf,
        weights,
        is_leaf=lambda leaf: isinstance(leaf, Rotated),
    )
    tree = jax.tree.map(np.asarray, jax.device_get({"params": plain} | ({"batch_stats": stats} if stats else {})))
    if target.suffix == ".safetensors":
        extras.require("safetensors", str(target))
        from safetensors.numpy import save

        content = save({name: np.ascontiguousarray(leaf) for name, leaf in flatten_dict(tree, sep="/").items()})
    else:
        content = msgpack_serialize(tree)
    atomic.write(target, content)


def shown(source: Any) -> str:
    """Return the name of a source of weights for messages."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "of type " + type(source).__name__


def arrays_of(source: Any) -> Arrays:
    """Return the arrays of a file, a folder or a pytree by path.

    Raises:
        UserError: if the file cannot be read, or a value is not an array.
    """
    name = shown(source)
    if isinstance(source, str | os.PathLike):
        tree = _read(Path(source))
    elif isinstance(source, Mapping):
        tree = source
    else:
        raise arguments.wrong_type("base_weights", source, "a path, or a dictionary of arrays")
    flat = flatten_dict(_plain(tree), sep="/")
    if not flat:
        raise ArgumentError("base_weights", name, "has no arrays; give trained weights")
    try:
        return {path: arguments.array(path, leaf) for path, leaf in flat.items()}
    except UserError as error:
        raise ArgumentError("base_weights", name, f"has a leaf that is not an array ({error}); remove it") from None


def fit(arrays: Arrays, net: Network, key: Key[Array, ""], name: str) -> tuple[Weights, Stats]:
    """Return arrays as weights and batch-norm statistics of a network; see `load_weights`.

    Args:
        arrays: arrays by path.
        net: the network.
        key: random key for the last layer.
        name: name of their source, for messages.

    Raises:
        UserError: if an array is missing, surplus, not finite, or has the wrong shape.
    """
    split = {path.partition("/")[0] for path in arrays}
    if not ("params" in split and split <= _COLLECTIONS):
        arrays = {f"params/{path}": leaf for path, leaf in arrays.items()}
    shapes = jax.eval_shape(net.init, key)
    expected: dict[str, Any] = flatten_dict({"params": shapes[0], "batch_stats": shapes[1]}, sep="/")
    drawn: set[str] = set()
    if net.head:
        head = {path for path in expected if path.startswith(f"params/{net.head}/")}
        given = {path for path in arrays if path.startswith(f"params/{net.head}/")}
        if given != head or any(arrays[path].shape != expected[path].shape for path in head):
            drawn, arrays = head, {path: leaf for path, leaf in arrays.items() if path not in given}
    if not any(path.startswith("batch_stats/") for path in arrays):
        drawn |= (missing := {path for path in expected if path.startswith("batch_stats/")})
        if missing:
            warn(f"base_weights {name} have no batch_stats; tasks begin with the initial batch-norm statistics")
    _check(arrays, {path: leaf for path, leaf in expected.items() if path not in drawn}, net, name)
    fresh: dict[str, Any] = {}
    if drawn:
        weights, stats = net.init(key)
        fresh = flatten_dict({"params": weights, "batch_stats": stats}, sep="/")
    leaves = {
        path: fresh[path] if path in drawn else jnp.asarray(arrays[path], like.dtype) for path, like in expected.items()
    }
    tree = unflatten_dict(leaves, sep="/")
    return tree["params"], tree.get("batch_stats", {})


def _check(arrays: Arrays, expected: Mapping[str, Any], net: Network, name: str) -> None:
    """Check that arrays have the expected paths and shapes, and finite numbers.

    Raises:
        ArgumentError: if they do not. The message has the first problem, with both shapes.
    """
    problems = [
        f"has no {_short(path)}; the network requires it, with shape {leaf.shape}"
        for path, leaf in expected.items()
        if path not in arrays
    ]
    for path, leaf in arrays.items():
        shape = leaf.shape
        if path not in expected:
            problems.append(f"has {_short(path)} with shape {shape}; the network has no such weights")
        elif shape != expected[path].shape:
            problems.append(f"{_short(path)} has shape {shape}; the network requires {expected[path].shape}")
        elif not np.issubdtype(leaf.dtype, np.floating):
            problems.append(f"{_short(path)} has type {leaf.dtype}; the network requires floats")
        elif not np.isfinite(leaf).all():
            problems.append(f"{_short(path)} has values that are not finite")
    if problems:
        more = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
        advice = "" if net.head else ", or name its last layer with head=... to draw that anew"
        problem = f"{problems[0]}{more}; give weights of {type(net).__name__} with these settings{advice}"
        raise ArgumentError("base_weights", name, problem)


def _short(path: str) -> str:
    return path.removeprefix("params/")


def _plain(tree: Any) -> Any:
    """Return nested mappings as dictionaries with names as keys."""
    return {str(name): _plain(child) for name, child in tree.items()} if isinstance(tree, Mapping) else tree


def _read(path: Path) -> Mapping[str, Any]:
    """Return the content of a file, or of the folder of an Orbax checkpoint.

    Raises:
        ArgumentError: if it cannot be read.
    """
    if not path.exists():
        raise ArgumentError("base_weights", path, f"does not exist; give {_FORMATS}")
    if path.suffix in _PICKLED:
        problem = "may be a pickled file, which could execute code and is not read; convert it to .safetensors"
        raise ArgumentError("base_weights", path, problem)
    if path.is_dir():
        return _read_orbax(path)
    try:
        if path.suffix != ".safetensors":
            tree = msgpack_restore(path.read_bytes())
            if not isinstance(tree, Mapping):
                raise ValueError("it does not contain a dictionary")
            return tree
        extras.require("safetensors", str(path))
        from safetensors.numpy import load_file

        named = load_file(path)
    except UserError:
        raise
    except Exception as error:  # of many types, from msgpack and safetensors
        raise ArgumentError("base_weights", path, f"cannot be read ({reason(error)}); give {_FORMATS}") from None
    separator = "/" if any("/" in name for name in named) else "."
    return {name.replace(separator, "/"): leaf for name, leaf in named.items()}


def _read_orbax(folder: Path) -> Mapping[str, Any]:
    """Return the arrays of an Orbax checkpoint, on the host.

    Raises:
        ArgumentError: if the folder does not contain exactly one checkpoint.
    """
    import orbax.checkpoint as ocp

    if (folder / "checkpoints").is_dir():
        problem = "is a run; write the weights of a task to a file with: python -m supsup_jax export-weights"
        raise ArgumentError("base_weights", folder, f"{problem} {folder} weights.msgpack --task 0")
    items = [item for item in (folder, *sorted(folder.iterdir())) if (item / "_METADATA").is_file()]
    if len(items) != 1:
        problem = f"contains {len(items)} Orbax checkpoints; give the folder of one, which contains a file _METADATA"
        raise ArgumentError("base_weights", folder, problem)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            path = items[0].absolute()
            stored = checkpointer.metadata(path)
            tree = getattr(getattr(stored, "item_metadata", stored), "tree", stored)
            on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return checkpointer.restore(path, restore_args=on_host)
    except Exception as error:  # Orbax raises many types
        raise ArgumentError("base_weights", folder, f"cannot be read ({reason(error)}); give {_FORMATS}") from None
