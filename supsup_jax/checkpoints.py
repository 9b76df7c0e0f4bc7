"""A run on disk: saved after every chunk of tasks, resumed, restored for use.

A step holds what has come since the one before it: what is kept of new tasks, their statistics, and what was measured;
so a run's checkpoints grow with its tasks and no faster. With it goes the experiment, whose seed gives the weights that
are never trained. Saving is synchronous, and a step appears whole or not at all.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
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


class Step(NamedTuple):
    """What one step of a checkpoint holds.

    Attributes:
        chunk: the tasks learned since the step before, if any.
        experiment: the settings of the run, as plain data.
        record: what was measured since the step before, as plain data.
    """

    chunk: Chunk | None
    experiment: dict[str, Any]
    record: dict[str, Any]


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

    def restore(self, template: Callable[[int], tuple[PyTree[Any], PyTree[Any]]]) -> list[Step]:
        """Every step saved so far, in order.

        Args:
            template: gives the shapes and types of store and statistics for a number of tasks.

        Raises:
            UserError: if a step is missing, cannot be read, or was written by another version.
        """
        saved = []
        for expected, number in enumerate(sorted(self._manager.all_steps())):
            if number != expected:
                raise self._unusable(expected, "it is missing")
            plain = self._read(number, "record", ocp.args.JsonRestore())
            if not isinstance(plain, dict) or plain.get("format") != FORMAT:
                raise self._unusable(number, f"it is not of format {FORMAT}, which this version of supsup_jax reads")
            chunk = None
            if tasks := plain["new_tasks"]:
                arrays = self._read_arrays(number, _named(*template(tasks)))
                chunk = Chunk(tasks, arrays["store"], arrays.get("stats", {}))
            saved.append(Step(chunk, plain["experiment"], plain["record"]))
        return saved

    def _read_arrays(self, number: int, shapes: dict[str, Any]) -> dict[str, Any]:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
        # Orbax casts to the target's types without a word, so compare first.
        with self._readable(number):
            stored = self._manager.item_metadata(number)["arrays"].tree
        if _shapes_and_types(stored) != _shapes_and_types(target):
            raise self._unusable(number, "its arrays have other shapes or types than this run's")
        return jax.device_get(self._read(number, "arrays", ocp.args.StandardRestore(target)))

    def _read(self, number: int, item: str, args: ocp.args.CheckpointArgs) -> Any:
        with self._readable(number):
            return self._manager.restore(number, args=ocp.args.Composite(**{item: args}))[item]

    @contextmanager
    def _readable(self, number: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and the libraries below it raise many kinds for a damaged file
            raise self._unusable(number, " ".join(str(error).split())[:200]) from error

    def _unusable(self, number: int, reason: str) -> UserError:
        return UserError(
            f"{self._folder / str(number)} cannot be read ({reason}); restore the folder from a copy, "
            "or start the run again without --resume"
        )


def _named(store: PyTree[Any], stats: PyTree[Any]) -> dict[str, Any]:
    """The arrays under their names; Orbax takes no empty tree."""
    named = {"store": store, "stats": stats}
    return {name: tree for name, tree in named.items() if jax.tree.leaves(tree)}


def _shapes_and_types(tree: PyTree[Any]) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): (tuple(leaf.shape), np.dtype(leaf.dtype)) for path, leaf in leaves}
