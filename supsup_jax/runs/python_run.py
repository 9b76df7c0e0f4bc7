"""Experiment of a run that is created from Python, and the work of learning one more task from a user's data."""

import dataclasses
import os
from typing import Any

from supsup_jax.arguments import convert
from supsup_jax.data import Dataset
from supsup_jax.data.user_tasks import UserTasks
from supsup_jax.errors import UserError
from supsup_jax.experiment import Experiment
from supsup_jax.methods import Method, SupSup
from supsup_jax.runs import initial
from supsup_jax.scenarios import GG
from supsup_jax.scenarios.work import Work


def experiment_for(network: Any, method: Any, parts: dict[str, Any]) -> tuple[Experiment, initial.Start]:
    """Return an experiment whose tasks are passed from Python, and the function that returns its initial weights.

    Args:
        network: the network.
        method: the method; `None` for `methods.SupSup()`.
        parts: other fields of `Experiment`; `base_weights` may be a pytree.

    Raises:
        UserError: if a field does not exist, a value has the wrong type, or the parts do not fit together.
    """
    known = [field.name for field in dataclasses.fields(Experiment)]
    if unknown := [name for name in parts if name not in known]:
        given = ("network", "method", "tasks")
        others = ", ".join(name for name in known if name not in given)
        raise UserError(f"there is no argument {unknown[0]}; give {others}, or fields of training=Training(...)")
    method = SupSup() if method is None else convert("method", method, Method)
    if method.searches[:1] != ("OneShot",):  # the default scenario GNu would search with OneShot
        parts = {"scenario": GG()} | parts
    weights = parts.get("base_weights")
    in_memory = weights is not None and not isinstance(weights, str | os.PathLike)
    parts = parts | ({"base_weights": None} if in_memory else {})
    experiment = Experiment(network=network, method=method, **({"name": "own", "tasks": UserTasks()} | parts))
    if experiment.scenario.discovers:
        raise UserError("scenario NNs learns from a stream; use supsup_jax.scenarios.discovery.Learner")
    return experiment, initial.given(weights, experiment.seed) if in_memory else initial.start_of(experiment)


def work_for(experiment: Experiment, dataset: Dataset, steps: int | None, **state: Any) -> Work:
    """Return the work of learning one more task from a user's data.

    Args:
        experiment: experiment of the run.
        dataset: the data of the task.
        steps: number of training steps; `None` for the experiment's.
        state: what depends on the learned tasks: the fields `first_task`, `weights`, `stats`, `carry`, `state` and
            `pending` of `Work`.
    """
    training = experiment.training
    network: Any = experiment.network
    if steps is not None:
        training = dataclasses.replace(training, steps=steps, epochs=None)
    if network.sync_bn:
        network = dataclasses.replace(network, sync_bn=False)
    changes: dict[str, Any] = {"tasks": UserTasks(num_tasks=1), "first_task": 0}
    parts = dataclasses.replace(experiment, training=training, network=network, **changes).build(dataset)
    return Work(
        parts=parts,
        dataset=dataset,
        tasks=parts.benchmark.tasks(dataset, 0, [0]),
        seed=experiment.seed,
        batch_size=training.batch_size,
        evaluations=(1,),
        num_learned=0,
        train=dataset.train,
        test=dataset.test,
        tasks_at_once=1,
        side_by_side=False,
        **state,
    )
