"""Description of a run in its checkpoints: experiment, inputs, and the first values of its initial weights."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from supsup_jax.data import Inputs
from supsup_jax.errors import UserError, warn
from supsup_jax.experiment import Experiment
from supsup_jax.networks import Weights
from supsup_jax.runs import composition
from supsup_jax.system import numerics

SHA256 = "base_weights_sha256"
"""Key of the checksum of given base weights in the description of a run."""

# Number of weights of each layer that a checkpoint stores.
_NUM_VALUES = 8


def describe(experiment: Experiment, inputs: Inputs, weights: Weights, sha256: str | None = None) -> dict[str, Any]:
    """Return the description of a run as plain data, for `Checkpoints`.

    Args:
        experiment: the experiment.
        inputs: inputs of its network.
        weights: initial base weights.
        sha256: checksum of given base weights; `None` if the seed determines them.
    """
    plain = {
        "experiment": composition.plain(experiment),
        "inputs": inputs._asdict(),
        "weights": _first_values(weights),
        "flags": numerics.rounding(),
    }
    return plain if sha256 is None else plain | {SHA256: sha256}


def check_weights(current: dict[str, Any], stored: dict[str, Any], folder: Path) -> None:
    """Check that the initial weights are the same as when the run was created; skipped if these were not stored.

    Warns if the weights match but JAX flags that affect rounding differ.

    Args:
        current: description of the run by `describe`, in this process.
        stored: description of the run in its checkpoint.
        folder: folder of the run.

    Raises:
        UserError: if the weights differ, because of a different version of JAX or a different network.
    """
    if "weights" not in stored:  # format 2
        return
    flags = numerics.rounding_differs(stored["flags"]) if "flags" in stored else ""
    given, drawn = stored.get(SHA256), current["weights"]
    if given != current.get(SHA256):
        raise UserError(
            f"{folder} has other base weights than this process was given; give the file that the run was created "
            f"with, or move that file away and continue with the weights that the run stores: python -m supsup_jax run "
            f"{folder}"
        )
    fits = drawn.keys() == stored["weights"].keys() and all(
        np.allclose(values, stored["weights"][name], rtol=1e-4, atol=1e-6) for name, values in drawn.items()
    )
    if not fits and given is None:
        raise UserError(
            f"{folder} has other initial weights than its seed gives in this process; use the network and the version "
            f"of JAX that created the run{_flags_advice(stored, flags)}"
        )
    if flags:
        warn(f"{folder} was created with different JAX flags: {flags}; results may be rounded differently")


def _flags_advice(stored: dict[str, Any], flags: str) -> str:
    """Return the part of the weights error that is about flags.

    Args:
        stored: description of the run in its checkpoint.
        flags: text that lists the flags that differ.
    """
    if "flags" not in stored:
        return ", or supsup_jax 0.1 if a flag such as JAX_ENABLE_X64 was set"
    return f", and its flags: {flags}" if flags else ""


def _first_values(weights: Weights) -> dict[str, list[float]]:
    """Return the first values of each layer; devices may round them differently."""
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf.reshape(-1)[:_NUM_VALUES]).tolist()
        for path, leaf in leaves
    }
