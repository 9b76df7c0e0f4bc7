"""The loop of a run: tasks arrive one after another, are learned, saved and evaluated."""

from supsup_jax.scenarios.given import GivenTasks
from supsup_jax.scenarios.run import Outcome, Report, Run
from supsup_jax.scenarios.unknown import StreamOfTasks

__all__ = ["GivenTasks", "Outcome", "Report", "Run", "StreamOfTasks", "run_of"]


def run_of(scenario: str) -> type[Run]:
    """How a scenario is run; `run_of(scenario).of(...)` runs it."""
    return StreamOfTasks if scenario == "NNs" else GivenTasks
