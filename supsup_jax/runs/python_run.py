"""The experiment of a run that begins from Python."""

import dataclasses
from typing import Any

from supsup_jax.arguments import convert
from supsup_jax.data.own import UserTasks
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.methods import Method, SupSup
from supsup_jax.scenarios import GG


def experiment_for(network: Any, method: Any, parts: dict[str, Any]) -> Experiment:
    """The experiment that learns tasks which Python code hands in.

    Args:
        network: the network.
        method: how tasks are learned; `None` for `methods.SupSup()`.
        parts: other fields of `Experiment`.

    Raises:
        UserError: if there is no such field, a value has another type, or parts do not fit together.
    """
    known = [field.name for field in dataclasses.fields(Experiment)]
    if unknown := [name for name in parts if name not in known]:
        given = ("network", "method", "tasks")
        others = ", ".join(name for name in known if name not in given)
        raise UserError(f"there is no argument {unknown[0]}; give {others}, or fields of training=Training(...)")
    method = SupSup() if method is None else convert("method", method, Method)
    if "OneShot" not in method.searches:  # what they infer tasks with follows from the method
        parts = {"scenario": GG()} | parts
    experiment = Experiment(network=network, method=method, **({"name": "own", "tasks": UserTasks()} | parts))
    if experiment.scenario.discovers:
        raise UserError("scenario NNs learns from a stream; see supsup_jax.scenarios.discovery.Learner")
    return experiment
