"""Add a data set, and a new kind of tasks over it.

The data set is generated here; in your script, read files instead. It has small
colour images of four kinds of noisy stripes. Every two tasks shift the images by one
more column to the left, and every second task shows negatives. One network learns
eight tasks.

    python add_a_dataset.py
    python add_a_dataset.py --noise 120 --side 12
    python add_a_dataset.py --benchmark Permuted
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

import supsup_jax as ss
from supsup_jax import data, networks, optimizers, scenarios


@ss.register
@dataclass(frozen=True)
class Stripes(data.Source):
    """Noisy coloured stripes; the class is their direction and distance.

    Attributes:
        side: height and width of the images.
        noise: standard deviation of the noise of a pixel, on a scale of 0 to 255.
    """

    name: ClassVar[str] = "stripes"
    needs_folder: ClassVar[bool] = False

    side: int = 8
    noise: float = 60.0

    def load(self, folder: Path) -> data.Dataset:
        """Return images as uint8 and labels from 0; the same arrays at every call."""
        rng = np.random.default_rng(0)
        row, column = np.indices((self.side, self.side))
        diagonals = (row + column) // 2 % 2, (row - column) // 2 % 2
        kinds = np.stack([row % 2, column % 2, *diagonals])

        def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
            labels = rng.integers(0, len(kinds), count)
            colours = rng.uniform(100, 255, (count, 1, 1, 3))
            noise = rng.normal(0, self.noise, (count, self.side, self.side, 3))
            images = kinds[labels][..., None] * colours + noise
            return images.clip(0, 255).astype(np.uint8), labels

        return data.Arrays(train=draw(1200), test=draw(300)).load(folder)


@dataclass(frozen=True)
class ShiftedColumns(data.Benchmark):
    """Tasks that shift columns, and may show negatives."""

    def tasks(self, dataset: data.Dataset, seed: int, numbers: Sequence[int]) -> Any:
        """Return descriptions of tasks: arrays with a leading task axis."""
        order = np.asarray(numbers, np.int32)
        return {"columns": order // 2, "negative": order % 2 == 1}

    def samples(self, split: Any, task: Any, rows: Any, train: bool, keys: Any = None):
        """Return images and labels of some rows, inside a jitted function."""
        images = jnp.asarray(split.images)[rows]
        images = jnp.roll(images, -task["columns"], axis=2)
        images = jnp.where(task["negative"], 255 - images, images)
        return self.normalise(images), jnp.asarray(split.labels)[rows]


@ss.register
@dataclass(frozen=True)
class MovedImages(data.TaskFamily):
    """Images shifted by one more column every two tasks; odd tasks show negatives."""

    num_tasks: int = 8

    def bind(self, dataset: data.Dataset) -> data.Benchmark:
        """Return the benchmark over a loaded data set."""
        return ShiftedColumns.of(dataset)


EXPERIMENT = ss.Experiment(
    name="stripes",
    tasks=MovedImages(Stripes()),
    network=networks.LeNet(features=20),
    scenario=scenarios.GNs(ss.OneShot(ss.entropy), images_per_pick=16),
    training=ss.Training(steps=150, batch_size=32, optimizer=optimizers.RMSprop(1e-3)),
)

if __name__ == "__main__":
    ss.main(EXPERIMENT, __doc__)
