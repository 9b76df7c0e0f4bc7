"""The loop of a run: tasks arrive one after another, are learned, saved and evaluated."""

from supsup_jax.experiment import Experiment
from supsup_jax.scenarios.given import GivenTasks
from supsup_jax.scenarios.loop import Loop, Outcome, Report
from supsup_jax.scenarios.shared import ShardedTasks
from supsup_jax.scenarios.stream import StreamOfTasks

__all__ = ["GivenTasks", "Loop", "Outcome", "Report", "ShardedTasks", "StreamOfTasks", "loop_of"]


def loop_of(experiment: Experiment) -> type[Loop]:
    """How an experiment is run; `loop_of(experiment).run(experiment, ...)` runs it."""
    if experiment.scenario == "NNs":
        return StreamOfTasks
    return ShardedTasks if experiment.shares_batches else GivenTasks
