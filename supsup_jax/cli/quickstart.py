"""SupSup in under a minute: 25 tasks in one random network, on digits that come with the package. No download.

Each task permutes the pixels of handwritten digits (8 x 8) differently, and learns one binary mask over the same random
weights. In the evaluation, the network infers the task of the images.
"""

import sys

import jax.numpy as jnp
import numpy as np

from supsup_jax import data, methods, networks, optimizers, scenarios
from supsup_jax.cli import script
from supsup_jax.experiment import Experiment, Training
from supsup_jax.inference import OneShot, alpha_gradient, superfluous
from supsup_jax.paper import drawing, figures
from supsup_jax.runs.evaluate import load_dataset
from supsup_jax.runs.run import Run
from supsup_jax.system import extras

EXPERIMENT = Experiment(
    name="quickstart",
    tasks=data.Permuted(data.Digits(), num_tasks=25),
    network=networks.LeNet(features=100),  # 90 superfluous neurons, by which the task is inferred
    method=methods.SupSup(),
    scenario=scenarios.GNu(OneShot(superfluous(real=10)), images_per_pick=4, images_per_task=360),
    training=Training(steps=500, batch_size=32, optimizer=optimizers.RMSprop(1e-3)),
    evaluate_at=(5, 10, 15, 20, 25),
)

SHOWN = (0, 11, 24)
"""Tasks whose images' α-derivatives are drawn."""


def main(description: str | None = __doc__) -> None:
    """Run the experiment that the command line describes, and draw it if it is a single run.

    Args:
        description: shown by `--help`.
    """
    for run in script.main(EXPERIMENT, description):
        if extras.is_installed("plots"):
            draw(run)


def command() -> None:
    """Run `supsup-jax quickstart`, which has the flags of a script."""
    sys.argv[:2] = ["supsup-jax quickstart"]
    main()


def draw(run: Run) -> None:
    """Draw accuracy against tasks learned, and the α-derivatives of one test image of each task in `SHOWN`."""
    experiment, model = run.experiment, run.model
    search = getattr(experiment.scenario, "search", None)
    if not isinstance(search, OneShot) or not isinstance(experiment.tasks, data.Permuted) or not run.folder:
        return  # the command line has changed the experiment
    dataset = load_dataset(run)
    benchmark, objective = experiment.tasks.bind(dataset), search.for_classes(run.inputs.num_classes).objective
    num_tasks = model.num_tasks
    shown = [task for task in SHOWN if task < num_tasks]
    tasks = benchmark.tasks(dataset, experiment.seed, shown)
    images = [benchmark.samples(dataset.test, task, jnp.arange(1), train=False)[0] for task in tasks]
    alphas = jnp.full(num_tasks, 1 / num_tasks)
    gradients = alpha_gradient(model, jnp.concatenate(images), alphas, objective)
    path = run.folder / "quickstart.png"
    with drawing.optional(path, "draw it with --resume"):
        figures.draw_run(path, f"{num_tasks} tasks, one random network", run.record, np.asarray(gradients), shown)
        print(path)
