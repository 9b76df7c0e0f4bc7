"""A run on disk: saved after every chunk of tasks, resumed, restored for use.

A step holds what has come since the one before it: what is kept of new tasks, their statistics, and what was measured;
so a run's checkpoints grow with its tasks and no faster. With it goes the experiment, whose seed gives the weights that
are never trained. What is replaced as tasks come, such as weights that are, is the run's *state*: it lies beside the
steps, and only the last two of it are kept. Saving is synchronous, and a step appears whole or not at all.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from supsup_jax import interruption
from supsup_jax.errors import UserError

FORMAT = 2
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


class Saved(NamedTuple):
    """A run's checkpoints, read.

    Attributes:
        steps: every step, in order.
        state: what the last of them left that is replaced as tasks come; nothing if there is none.
    """

    steps: list[Step]
    state: PyTree[Any] | None


class Checkpoints:
    """The checkpoints of one run, in `<folder>/checkpoints` and `<folder>/state`; a context manager.

    Args:
        folder: the run's folder.
        experiment: the settings of the run, as plain data.
    """

    def __init__(self, folder: Path, experiment: dict[str, Any]):
        self._experiment = experiment
        self._folder = folder.absolute()  # Orbax refuses a relative path, and not always aloud
        self._manager = _manager(
            self._folder / "checkpoints", arrays=ocp.StandardCheckpointHandler(), record=ocp.JsonCheckpointHandler()
        )
        self._state_step: int | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()
        if "_states" in vars(self):
            self._states.close()

    @cached_property
    def _states(self) -> ocp.CheckpointManager:  # made with the first state: most runs have none
        return _manager(self._folder / "state", keep=2, arrays=ocp.StandardCheckpointHandler())

    def save(self, chunk: Chunk | None, record: dict[str, Any], state: PyTree[Any] | None = None) -> None:
        """Saves what has come since the last step.

        Args:
            chunk: newly learned tasks, if there are any.
            record: what was measured, as plain data.
            state: replaces the last one, if there is a new one.

        Raises:
            OSError: if Orbax wrote nothing.
        """
        latest = self._manager.latest_step()
        step = 0 if latest is None else latest + 1
        if state is not None:  # before the step that needs it; should that not follow, the last but one is still there
            for unused in self._states.all_steps():
                if unused >= step:
                    self._states.delete(unused)
            _save(self._states, step, arrays=ocp.args.StandardSave(state))
            self._state_step = step
        plain = {
            "format": FORMAT,
            "experiment": self._experiment,
            "new_tasks": chunk.num_tasks if chunk else 0,
            "record": record,
            "state_step": self._state_step,
        }
        items: dict[str, Any] = {"record": ocp.args.JsonSave(plain)}
        if chunk and (named := _named(chunk.store, chunk.stats)):
            items["arrays"] = ocp.args.StandardSave(named)
        _save(self._manager, step, **items)

    def restore(
        self, template: Callable[[int], tuple[PyTree[Any], PyTree[Any]]], state_template: PyTree[Any] | None = None
    ) -> Saved:
        """Everything saved so far.

        Args:
            template: gives the shapes and types of store and statistics for a number of tasks.
            state_template: the shapes and types of the state.

        Raises:
            UserError: if a step is missing, cannot be read, or was written by another version.
        """
        saved = []
        for expected, number in enumerate(sorted(self._manager.all_steps())):
            if number != expected:
                raise _unusable(self._manager, expected, "it is missing")
            plain = _read(self._manager, number, "record", ocp.args.JsonRestore())
            if not isinstance(plain, dict) or plain.get("format") != FORMAT:
                raise _unusable(
                    self._manager, number, f"it is not of format {FORMAT}, which this version of supsup_jax reads"
                )
            chunk = None
            if tasks := plain["new_tasks"]:
                named = _named(*template(tasks))
                arrays = _read_arrays(self._manager, number, named) if named else {}
                chunk = Chunk(tasks, arrays.get("store", {}), arrays.get("stats", {}))
            self._state_step = plain.get("state_step")
            saved.append(Step(chunk, plain["experiment"], plain["record"]))
        if self._state_step is None:
            return Saved(saved, None)
        return Saved(saved, _read_arrays(self._states, self._state_step, state_template))


def _manager(folder: Path, keep: int | None = None, **handlers: Any) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, max_to_keep=keep)
    return ocp.CheckpointManager(folder, item_handlers=handlers, options=options)


def _save(manager: ocp.CheckpointManager, step: int, **items: Any) -> None:
    with interruption.later():
        if not manager.save(step, args=ocp.args.Composite(**items)):
            raise OSError(f"checkpoint {step} was not written to {manager.directory}")


def _read_arrays(manager: ocp.CheckpointManager, number: int, shapes: PyTree[Any]) -> Any:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    # Orbax casts to the target's types without a word, so compare first.
    with _readable(manager, number):
        stored = manager.item_metadata(number)["arrays"].tree
    if _shapes_and_types(stored) != _shapes_and_types(target):
        raise _unusable(manager, number, "its arrays have other shapes or types than this run's")
    return jax.device_get(_read(manager, number, "arrays", ocp.args.StandardRestore(target)))


def _read(manager: ocp.CheckpointManager, number: int, item: str, args: ocp.args.CheckpointArgs) -> Any:
    with _readable(manager, number):
        return manager.restore(number, args=ocp.args.Composite(**{item: args}))[item]


@contextmanager
def _readable(manager: ocp.CheckpointManager, number: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax and the libraries below it raise many kinds for a damaged file
        raise _unusable(manager, number, " ".join(str(error).split())[:200]) from error


def _unusable(manager: ocp.CheckpointManager, number: int, reason: str) -> UserError:
    return UserError(
        f"{manager.directory / str(number)} cannot be read ({reason}); restore the folder from a copy, "
        "or start the run again without --resume"
    )


def _named(store: PyTree[Any], stats: PyTree[Any]) -> dict[str, Any]:
    """The arrays under their names; Orbax takes no empty tree."""
    named = {"store": store, "stats": stats}
    return {name: tree for name, tree in named.items() if jax.tree.leaves(tree)}


def _shapes_and_types(tree: PyTree[Any]) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # By names alone: what was a named tuple comes back as a dictionary.
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), np.dtype(leaf.dtype))
        for path, leaf in leaves
    }
