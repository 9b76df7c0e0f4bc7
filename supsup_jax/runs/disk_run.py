"""Runs whose masks stay on disk."""

from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from supsup_jax.bank.files import BankFiles
from supsup_jax.errors import ArgumentError, UserError
from supsup_jax.inference import Search, on_disk
from supsup_jax.model import Model
from supsup_jax.runs.prediction import InferredTasks
from supsup_jax.runs.predictor import Predictor
from supsup_jax.runs.run import Run
from supsup_jax.system.progress import Progress


class DiskRun(Predictor):
    """A run whose masks stay on disk; `restore(folder, bank_on_disk=True)` returns it.

    It infers tasks with the searches `shortlist`, which reads a part of the masks, and `one_shot`, which reads all of
    them for each group of images that fits in `memory`. It does not learn. For images and methods, see `Run`.

    Args:
        run: the run, read without its tasks.
        bank: its masks.
        memory: limit in bytes of what an inference holds, without the program and what it compiles.

    Attributes:
        weights: the base weights.
        bank_files: the masks on disk.
        memory: the limit in bytes.

    Raises:
        BankFileError: if the masks are those of a different network.
    """

    def __init__(self, run: Run, bank: BankFiles, memory: int = on_disk.MEMORY):
        self.experiment, self.inputs, self.net, self.method = run.experiment, run.inputs, run.net, run.method
        self.record, self.folder, self.weights = run.record, run.folder, run.weights
        self.bank_files, self.memory = bank, memory
        self._has_given_weights, self._stats = run.has_given_weights, jax.tree.structure(run.fresh_stats)
        bank.check(run.weights)
        self._without_bank = on_disk.model_on_disk(run.net, run.method, run.weights, run.fresh_stats, bank)

    @property
    def num_tasks(self) -> int:
        """Number of learned tasks."""
        return self.bank_files.num_tasks

    @property
    def _num_learned(self) -> int:
        return self.num_tasks

    @property
    def has_given_weights(self) -> bool:
        """Whether the user gave the initial base weights; otherwise the seed determines them."""
        return self._has_given_weights

    @property
    def model(self) -> Model:
        """Not available, since it holds all masks in memory.

        Raises:
            UserError: always.
        """
        raise UserError("the masks of this run are on disk; restore it without bank_on_disk to use all of them at once")

    def model_for(self, search: Search) -> Model:
        """Not available; see `model`."""
        return self.model

    def learn(self, *arguments: Any, **named: Any) -> NoReturn:
        """Not available.

        Raises:
            UserError: always.
        """
        raise UserError(
            "a run restored with bank_on_disk does not learn; restore it without, learn, and export its bank again"
        )

    def _model_with(self, task: int | Array) -> tuple[Model, int | Array]:
        """Return a model of one task, which is read from disk."""
        number, structure = int(task), jax.tree.structure(self.weights)
        bits = [leaf.astype(np.uint8)[..., None] for leaf in self.bank_files.mask(number)]
        stats = [leaf[None] for leaf in self.bank_files.stats(number)]
        model = Model(
            net=self.net,
            method=self.method,
            num_tasks=1,
            weights=self._without_bank.weights,
            bank=structure.unflatten(bits),
            stats=self._stats.unflatten(stats),
        )
        return jax.device_put(model), 0

    def _infer(self, images: np.ndarray, search: Search) -> InferredTasks:
        size = 8 * self.num_tasks  # the scores of an image, and a copy
        if len(images) * size > self.memory:
            problem = (
                f"is less than the scores of {len(images)} images take; give at most {self.memory // size} at a time"
            )
            raise ArgumentError("memory", self.memory, problem)
        scores = np.concatenate([*self._scores(images, search)])
        return self._with_confidence(search, scores.argmin(-1).astype(np.int32), scores)

    def _picks(self, images: np.ndarray, search: Search) -> Int[np.ndarray, " images"]:
        picks = [scores.argmin(-1).astype(np.int32) for scores in self._scores(images, search)]
        return np.concatenate(picks)

    def _scores(self, images: np.ndarray, search: Search) -> Iterator[np.ndarray]:
        """Yield the scores of some images at a time."""
        progress = Progress("inferring tasks", len(images), "images")
        size = on_disk.images_at_once(self.memory, self.inputs.image_shape)
        for start in range(0, len(images), size):
            shown = self.inputs.normalise(jnp.asarray(images[start : start + size]))
            for scores in on_disk.scores(self._without_bank, self.bank_files, shown, search, memory=self.memory):
                yield np.asarray(scores)
                progress.add(len(scores))
