"""Metadata of a run that its checkpoints store: the experiment, its inputs, and which weights its seed gave."""

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

# The first values of each layer's weights that a step says.
_SHOWN = 8


def describe(experiment: Experiment, inputs: Inputs, weights: Weights) -> dict[str, Any]:
    """The run as plain data, as `Checkpoints` takes it.

    Args:
        experiment: its settings.
        inputs: what images are to its network.
        weights: the shared weights as they were drawn.
    """
    return {
        "experiment": composition.plain(experiment),
        "inputs": inputs._asdict(),
        "weights": _first_values(weights),
        "flags": numerics.rounding(),
    }


def check_weights(here: dict[str, Any], described: dict[str, Any], folder: Path) -> None:
    """Checks that a run was described with the weights that its seed gives here, if it was described with any.

    Prints a warning if the weights are the same, and flags of JAX that change how results are rounded differ.

    Args:
        here: the run as `describe` describes it here.
        described: the run as its checkpoint describes it.
        folder: the run's.

    Raises:
        UserError: if the weights differ, as another version of JAX, or another network, would draw them.
    """
    if "weights" not in described:  # format 2
        return
    flags = numerics.rounding_differs(described["flags"]) if "flags" in described else ""
    drawn = here["weights"]
    fits = drawn.keys() == described["weights"].keys() and all(
        np.allclose(values, described["weights"][name], rtol=1e-4, atol=1e-6) for name, values in drawn.items()
    )
    if not fits:
        raise UserError(
            f"{folder} was learned with other weights than its seed gives here; use the network and the version of JAX "
            f"that it was made with{_of_flags(described, flags)}"
        )
    if flags:
        warn(f"{folder} was learned with other flags of JAX: {flags}; results may be rounded differently")


def _of_flags(described: dict[str, Any], flags: str) -> str:
    """What the error of other weights adds about flags, given those that differ, in words."""
    if "flags" not in described:
        return ", or supsup_jax 0.1 if a flag such as JAX_ENABLE_X64 was set then"
    return f", and its flags: {flags}" if flags else ""


def _first_values(weights: Weights) -> dict[str, list[float]]:
    """The first few values of every layer; other devices may round them differently."""
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf.reshape(-1)[:_SHOWN]).tolist()
        for path, leaf in leaves
    }
