"""The loop of a run: tasks arrive one after another, are learned, saved and evaluated."""

from supsup_jax.experiment import Experiment
from supsup_jax.scenarios.given import GivenTasks, tasks_of_run
from supsup_jax.scenarios.run import Outcome, Report, Run
from supsup_jax.scenarios.sharded import ShardedTasks
from supsup_jax.scenarios.unknown import StreamOfTasks

__all__ = ["GivenTasks", "Outcome", "Report", "Run", "ShardedTasks", "StreamOfTasks", "run_of", "tasks_of_run"]


def run_of(experiment: Experiment) -> type[Run]:
    """How an experiment is run; `run_of(experiment).of(experiment, ...)` runs it."""
    if experiment.scenario == "NNs":
        return StreamOfTasks
    return ShardedTasks if experiment.shares_batches else GivenTasks
