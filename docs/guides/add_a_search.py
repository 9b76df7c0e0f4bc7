"""Add a search: one gradient selects a few tasks, which are then tried.

OneShot selects the task with the smallest derivative. Exhaustive tries every task,
which is more reliable and takes a forward pass per task. This search tries only the
tasks with the smallest derivatives. The experiment has ten tasks on handwritten
digits, each with its pixels in a different order.

    python add_a_search.py
    python add_a_search.py --candidates 1       # the same as OneShot
    python add_a_search.py --search exhaustive
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

import supsup_jax as ss
from supsup_jax import data, networks, optimizers, scenarios
from supsup_jax.errors import ArgumentError


@ss.register
@dataclass(frozen=True)
class BestFew(ss.OneShot):
    """Search that tries the tasks with the smallest derivatives.

    It serves the same methods as OneShot.

    Attributes:
        candidates: number of tasks to try.
    """

    name: ClassVar[str] = "best_few"  # in files, and as the value of --search

    candidates: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise ArgumentError("candidates", self.candidates, "must be at least 1")

    def scores(
        self,
        model: ss.Model,
        images: jax.Array,
        images_per_pick: int = 1,
    ) -> jax.Array:
        """Return the objective of each task, `(picks, tasks)`.

        It is infinite for all other tasks.
        """
        alphas = jnp.full(model.num_tasks, 1 / model.num_tasks)
        gradient = ss.alpha_gradient(
            model,
            images,
            alphas,
            self.objective,
            images_per_pick,
        )
        _, best = jax.lax.top_k(-gradient, min(self.candidates, model.num_tasks))
        groups = images.reshape(len(best), images_per_pick, *images.shape[1:])

        def value(task: jax.Array, group: jax.Array) -> jax.Array:
            logits, _ = model.net.apply(
                model.effective_weights(task),
                model.task_stats(task),
                group,
                train=False,
            )
            return self.objective(logits).mean()

        values = jax.lax.map(
            lambda pick: jax.vmap(value, in_axes=(0, None))(*pick),
            (best, groups),
        )
        rows = jnp.arange(len(best))[:, None]
        return jnp.full_like(gradient, jnp.inf).at[rows, best].set(values)


EXPERIMENT = ss.Experiment(
    name="best_few",
    tasks=data.Permuted(data.Digits(), num_tasks=10),
    network=networks.LeNet(features=20),
    scenario=scenarios.GNu(BestFew(ss.entropy)),
    training=ss.Training(steps=150, batch_size=32, optimizer=optimizers.RMSprop(1e-3)),
    evaluate_at=(5, 10),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
