"""What to say where tasks are inferred badly: how badly, and which flags help."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from supsup_jax.data import Split
from supsup_jax.inference import Exhaustive, superfluous
from supsup_jax.runs.run import Run

DOCS = "docs/idea.md#task-inference-on-splits-of-one-data-set"
"""Where the documentation says what to expect of task inference."""

Values = Sequence[float] | np.ndarray

# Inference is near chance if it has less than this share of the way from chance to all tasks right.
_NEAR_CHANCE = 0.25

# Accuracy with the task inferred is far below that with the task given if it is less than this share of it.
_FAR_BELOW = 0.8

# Images that share their task, from which exhaustive searches almost always find it.
_IMAGES = 8


def on_inference(run: Run, picked: Values, inferred: Values, given: Values | None = None) -> str | None:
    """One line that says that tasks are inferred badly, and what helps; `None` if they are not.

    Args:
        run: the run; tasks are inferred among all that it has learned.
        picked: `(tasks,)`, the fraction of picks that are right.
        inferred: `(tasks,)`, accuracy with the task inferred, a fraction.
        given: `(tasks,)`, that with the task given, where it was measured.
    """
    if run.num_tasks < 2:
        return None
    found, chance = float(np.mean(picked)), 1 / run.num_tasks
    is_near_chance = found < chance + _NEAR_CHANCE * (1 - chance)
    is_far_below = given is not None and float(np.mean(inferred)) < _FAR_BELOW * float(np.mean(given))
    if not is_near_chance and not is_far_below:
        return None
    return (
        f"inference: the task was found in {100 * found:.0f} % of picks, where chance is {100 * chance:.0f} %; "
        f"what helps: {', '.join(remedies(run))} ({DOCS})"
    )


def remedies(run: Run) -> list[str]:
    """The flags that help, of those that an experiment like the run's can have and does not have yet."""
    experiment = run.experiment
    scenario: Any = experiment.scenario  # GG has no search; tasks can be inferred all the same
    if run.method.recovers:
        return ["--through-memory --attempts 3"]
    search, helps = run.inference(), []
    if not isinstance(search, Exhaustive):
        if not scenario.discovers:
            helps.append("--search exhaustive")
        if isinstance(search.objective, superfluous):
            helps.append("--objective entropy")
    if getattr(scenario, "images_per_pick", 1) < _IMAGES <= scenario.test_batch_size:
        helps.append(f"several images a pick (--images-per-pick {_IMAGES})")
    if run.net.num_outputs == run.inputs.num_classes and not isinstance(experiment.tasks, Split):
        helps.append("more outputs than classes (--features)")
    return [*helps, f"tasks that are given ({'--scenario GG' if scenario.infers else '--task given'})"]
