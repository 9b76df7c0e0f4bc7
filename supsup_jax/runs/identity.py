"""What a run says of itself in its checkpoints: enough to use it without its data set, and never with other weights."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from supsup_jax.data import Inputs
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.networks import Weights
from supsup_jax.runs import formats

_SHOWN = 8


def describe(experiment: Experiment, inputs: Inputs, weights: Weights) -> dict[str, Any]:
    """The run as plain data, as `Checkpoints` takes it.

    Args:
        experiment: its settings.
        inputs: what images are to its network.
        weights: the shared weights as they were drawn.
    """
    return {"experiment": formats.plain(experiment), "inputs": inputs._asdict(), "weights": _first_values(weights)}


def check_weights(here: dict[str, Any], described: dict[str, Any], folder: Path) -> None:
    """Checks that a run was described with the weights that its seed gives here, if it was described with any.

    Args:
        here: the run as `describe` describes it here.
        described: the run as its checkpoint describes it.
        folder: the run's.

    Raises:
        UserError: if the weights differ, as another version of JAX, or another network, would draw them.
    """
    if "weights" not in described:  # format 2
        return
    drawn = here["weights"]
    fits = drawn.keys() == described["weights"].keys() and all(
        np.allclose(values, described["weights"][name], rtol=1e-4, atol=1e-6) for name, values in drawn.items()
    )
    if not fits:
        raise UserError(
            f"{folder} was learned with other weights than its seed gives here; use the network and the version of JAX "
            "that it was made with"
        )


def _first_values(weights: Weights) -> dict[str, list[float]]:
    """The first few values of every layer; devices of another kind may round them otherwise."""
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf.reshape(-1)[:_SHOWN]).tolist()
        for path, leaf in leaves
    }
