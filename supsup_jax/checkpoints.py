"""A run on disk: saved after every chunk of tasks, resumed, restored for use.

A step holds what has come since the one before it: what is kept of new tasks, their statistics, and what was measured;
so a run's checkpoints grow with its tasks and no faster. With it goes the experiment, whose seed gives the weights that
are never trained. Saving is synchronous, and a step appears whole or not at all.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from supsup_jax.errors import UserError

FORMAT = 1
"""Version of what a step holds."""


class Chunk(NamedTuple):
    """Some tasks as they lie in a checkpoint, on the host.

    Attributes:
        num_tasks: how many.
        store: what the method keeps of them.
        stats: their statistics, stacked along a leading task axis; `{}` where there are none.
    """

    num_tasks: int
    store: PyTree[Any]
    stats: PyTree[Any]


class Checkpoints:
    """The checkpoints of one run, in `<folder>/checkpoints`; a context manager.

    Args:
        folder: the run's folder.
        experiment: the settings of the run, as plain data.
    """

    def __init__(self, folder: Path, experiment: dict[str, Any]):
        self._experiment = experiment
        self._folder = (folder / "checkpoints").absolute()  # Orbax refuses a relative path, and not always aloud
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_handlers={
                "arrays": ocp.StandardCheckpointHandler(),
                "record": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def save(self, chunk: Chunk | None, record: dict[str, Any]) -> None:
        """Saves newly learned tasks, if there are any, and what was measured since the last step, as plain data.

        Raises:
            OSError: if Orbax wrote nothing.
        """
        latest = self._manager.latest_step()
        step = 0 if latest is None else latest + 1
        tasks = chunk.num_tasks if chunk else 0
        plain = {"format": FORMAT, "experiment": self._experiment, "new_tasks": tasks, "record": record}
        items: dict[str, Any] = {"record": ocp.args.JsonSave(plain)}
        if chunk:
            items["arrays"] = ocp.args.StandardSave(_named(chunk.store, chunk.stats))
        if not self._manager.save(step, args=ocp.args.Composite(**items)):
            raise OSError(f"checkpoint {step} was not written to {self._folder}")

    def restore(
        self, template: Callable[[int], tuple[PyTree[Any], PyTree[Any]]]
    ) -> tuple[list[Chunk], list[dict[str, Any]]]:
        """All chunks saved so far, and what was measured at every step; nothing if nothing was saved.

        Args:
            template: gives the shapes and types of store and statistics for a number of tasks.

        Raises:
            UserError: if a checkpoint cannot be read.
        """
        chunks, records = [], []
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        for step in sorted(self._manager.all_steps()):
            saved = self._read(step, "record", ocp.args.JsonRestore())
            if saved["format"] != FORMAT:
                raise UserError(
                    f"{self._folder / str(step)} has format {saved['format']}, but this version of supsup_jax reads "
                    f"{FORMAT}; use the version that wrote it, or start the run again without --resume"
                )
            records.append(saved["record"])
            if tasks := saved["new_tasks"]:
                target = jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
                    _named(*template(tasks)),
                )
                arrays = jax.device_get(self._read(step, "arrays", ocp.args.StandardRestore(target)))
                chunks.append(Chunk(tasks, arrays["store"], arrays.get("stats", {})))
        return chunks, records

    def _read(self, step: int, item: str, args: ocp.args.CheckpointArgs) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
        except Exception as error:  # Orbax and the libraries below it raise many kinds for a damaged file
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self._folder / str(step)} cannot be read ({reason}); restore the folder from a copy, "
                "or start the run again without --resume"
            ) from error


def _named(store: PyTree[Any], stats: PyTree[Any]) -> dict[str, Any]:
    """The arrays under their names; Orbax takes no empty tree."""
    named = {"store": store, "stats": stats}
    return {name: tree for name, tree in named.items() if jax.tree.leaves(tree)}


def num_bytes(tree: PyTree[Any]) -> int:
    """The bytes that arrays, or what has their shape and dtype, take in memory."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
