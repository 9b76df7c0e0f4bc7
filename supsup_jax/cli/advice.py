"""Advice on poor task inference: how often it is right, and which flags improve it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from supsup_jax.data import Split
from supsup_jax.inference import Exhaustive, Search, superfluous
from supsup_jax.runs.run import Run

DOCS = "docs/idea.md#task-inference-on-splits-of-one-data-set"
"""Section of the documentation on the accuracy of task inference."""

Values = Sequence[float] | np.ndarray

# The fraction of right inferences f is near chance c if (f - c) / (1 - c) is below this.
_NEAR_CHANCE = 0.25

# Accuracy with the task inferred is far below accuracy with the task given if their ratio is below this.
_FAR_BELOW = 0.8

# With this many images of the same task, exhaustive search almost always finds the task.
_IMAGES = 8


def on_inference(
    run: Run,
    picked: Values,
    inferred: Values,
    given: Values | None = None,
    search: Search | None = None,
    images_per_pick: int | None = None,
) -> str | None:
    """Return one line of advice if tasks are often inferred wrongly, else `None`.

    Args:
        run: the run; tasks are inferred among all tasks that it has learned.
        picked: `(tasks,)`, the fraction of inferences that are right.
        inferred: `(tasks,)`, accuracy with the task inferred, as a fraction.
        given: `(tasks,)`, accuracy with the task given, as a fraction, if it was measured.
        search: the search that inferred the tasks; by default the one of the run's experiment.
        images_per_pick: the number of images that it inferred a task from; by default that of the experiment.
    """
    if run.num_tasks < 2:
        return None
    found, chance = float(np.mean(picked)), 1 / run.num_tasks
    is_near_chance = found < chance + _NEAR_CHANCE * (1 - chance)
    is_far_below = given is not None and float(np.mean(inferred)) < _FAR_BELOW * float(np.mean(given))
    if not is_near_chance and not is_far_below:
        return None
    return (
        f"inference: {100 * found:.0f} % of tasks were inferred correctly (chance: {100 * chance:.0f} %); "
        f"to improve: {', '.join(remedies(run, search, images_per_pick))} ({DOCS})"
    )


def remedies(run: Run, search: Search | None = None, images_per_pick: int | None = None) -> list[str]:
    """List the flags that improve inference, that the run's experiment supports, and that were not used yet.

    The arguments are those of `on_inference`.
    """
    experiment = run.experiment
    scenario: Any = experiment.scenario  # in GG too, although its scenario has no search
    if run.method.recovers:
        return ["--through-memory --attempts 3"]
    search, helps = search or run.inference(), []
    images = getattr(scenario, "images_per_pick", 1) if images_per_pick is None else images_per_pick
    if not isinstance(search, Exhaustive):
        if not scenario.discovers:
            helps.append("--search exhaustive")
        if isinstance(search.objective, superfluous):
            helps.append("--objective entropy")
    if images < _IMAGES <= scenario.test_batch_size:
        helps.append(f"several images for each inference (--images-per-pick {_IMAGES})")
    if run.net.num_outputs == run.inputs.num_classes and not isinstance(experiment.tasks, Split):
        helps.append("more outputs than classes (--features)")
    return [*helps, f"giving the task ({'--scenario GG' if scenario.infers else '--task given'})"]
