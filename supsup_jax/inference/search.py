"""Base class of searches."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from supsup_jax.arguments import Part
from supsup_jax.inference.objectives import Objective, entropy, for_classes
from supsup_jax.methods import Method
from supsup_jax.model import Model


@dataclass(frozen=True)
class Search(Part, ABC):
    """Search for the task of images; hashable.

    Attributes:
        objective: the objective that is smallest for the right task: `entropy`, `superfluous(real=...)` or, only for
            `Exhaustive`, `maximum`.
    """

    objective: Objective = entropy

    kind: ClassVar[str] = "search"

    picks_smallest: ClassVar[bool] = True
    """Whether the search picks the task with the smallest score."""

    scores_are_values: ClassVar[bool] = False
    """Whether scores are values of the objective, which can be compared between images, rather than derivatives."""

    uses_counts: ClassVar[bool] = False
    """Whether the search is faster with a model that has counts; see `Model.with_counts`."""

    def for_one_task(self) -> "Search":
        """Return the search for calls whose images all belong to one unknown task; by default the same search."""
        return self

    def check(self) -> "tuple[Search, int] | None":
        """Return the exact search, and the number of picks of each task that evaluations compare with it.

        Returns:
            `None`, which is the default, if this search is not an approximation.
        """
        return None

    def serves(self, method: Method) -> bool:
        """Return whether this search can infer the tasks of a method; by default, whether any search can."""
        return bool(method.searches)

    def for_classes(self, num_classes: int) -> "Search":
        """Return the search for networks whose first `num_classes` outputs stand for classes."""
        return dataclasses.replace(self, objective=for_classes(self.objective, num_classes))

    def __call__(
        self, model: Model, images: Float[Array, "batch height width channels"], images_per_pick: int = 1
    ) -> Int[Array, " picks"]:
        """Return the task of each pick; ties go to the lowest number.

        Args:
            model: the tasks among which to search.
            images: normalised images.
            images_per_pick: number of consecutive images that share their task.

        Raises:
            ValueError: if the images do not divide into picks.
        """
        return self.scores(model, images, images_per_pick).argmin(-1).astype(jnp.int32)

    @abstractmethod
    def scores(
        self, model: Model, images: Float[Array, "batch height width channels"], images_per_pick: int = 1
    ) -> Float[Array, "picks tasks"]:
        """Return scores that are smallest for the right task. For arguments and errors see `__call__`."""
