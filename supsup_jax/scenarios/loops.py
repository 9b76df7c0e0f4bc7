"""How an experiment is run."""

from supsup_jax.experiment import Experiment
from supsup_jax.scenarios.given import GivenTasks
from supsup_jax.scenarios.loop import Loop
from supsup_jax.scenarios.shared import ShardedTasks
from supsup_jax.scenarios.stream import StreamOfTasks


def loop_of(experiment: Experiment) -> type[Loop]:
    """How an experiment is run; `loop_of(experiment).run(experiment, ...)` runs it."""
    if experiment.scenario.discovers:
        return StreamOfTasks
    return ShardedTasks if experiment.shares_batches else GivenTasks
