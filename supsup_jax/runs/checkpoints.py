"""A run on disk: saved after every chunk of tasks, resumed, restored for use.

A step holds what has come since the one before it: what is kept of new tasks, their statistics, and what was measured;
so a run's checkpoints grow with its tasks and no faster. With it goes the experiment, whose seed gives the weights that
are never trained. What is replaced as tasks come, such as weights that are, is the run's *state*: it lies beside the
steps, and only the last two of it are kept. A task that takes long to learn is saved *unfinished* too, as is an
*evaluation* that takes long, and the last of that is kept until it is finished. Saving is synchronous, and a step
appears whole or not at all. What it says and its arrays have checksums, since Orbax reads a flipped bit without a word;
and it names the checksum of the step that it follows, so that no other can stand in its place.

Of several hosts the first one reads and writes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from supsup_jax.data import Inputs
from supsup_jax.errors import UserError, warn
from supsup_jax.experiment import Experiment
from supsup_jax.networks import Weights
from supsup_jax.runs import composition, formats
from supsup_jax.runs.steps import (
    digest_of,
    named_arrays,
    no_files,
    numbered,
    read_arrays,
    read_record,
    readable,
    save_step,
    save_with_record,
    unusable,
)
from supsup_jax.scenarios.work import Unfinished
from supsup_jax.system import hosts, numerics
from supsup_jax.system.progress import Progress

FORMAT = 3
"""Version of what a step holds. Steps of format 2, the first that was published, have neither checksums nor what images
and weights are like; they are read as well."""

_READ = (2, FORMAT)

# What a step says of the state that goes with it, where there is none.
_NO_STATE = {"state_step": None, "state_sha256": None}

# What a step says of the run.
_OF_RUN = ("experiment", "inputs", "weights", "flags")

# The first values of each layer's weights that a step says.
_SHOWN = 8

# The folders, and how many of what lies in each are kept.
_KEPT = {"checkpoints": None, "state": 2, "unfinished": 1, "evaluation": 1}


class Chunk(NamedTuple):
    """Some tasks as they lie in a checkpoint, on the host.

    Attributes:
        num_tasks: how many.
        bank: their adapters, packed.
        stats: their statistics, stacked along a leading task axis; `{}` where there are none.
    """

    num_tasks: int
    bank: PyTree[Any]
    stats: PyTree[Any]


class Step(NamedTuple):
    """What one step of a checkpoint holds.

    Attributes:
        chunk: the tasks learned since the step before, if any.
        run: what the run is, as plain data: see `Checkpoints`.
        record: what was measured since the step before, as plain data.
    """

    chunk: Chunk | None
    run: dict[str, Any]
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
    """The checkpoints of one run, in folders `checkpoints`, `state`, `unfinished` and `evaluation` of its own.

    It is a context manager.

    Args:
        folder: the run's folder.
        run: what the run is, as plain data, which goes with every step: its `experiment`, of what kind its `inputs`
            are, and the first of its `weights`. To read, it may be left out.
    """

    def __init__(self, folder: Path, run: dict[str, Any] | None = None):
        self._run = run or {}
        self._folder = folder.absolute()  # Orbax refuses a relative path, and not always aloud
        self._managers: dict[str, ocp.CheckpointManager] = {}
        self._state: dict[str, Any] = _NO_STATE
        self._last: str | None = None  # the checksum of the last step

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        for manager in self._managers.values():
            manager.close()

    def _manager(self, name: str) -> ocp.CheckpointManager:
        """The manager of a folder, made when it is first needed: most runs have no state."""
        if name not in self._managers:
            folder = self._folder / name
            folder.mkdir(exist_ok=True)
            if strange := next(no_files(folder), None):
                raise unusable(strange, "it is a link, or neither a file nor a folder")
            alone = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix=name
            )
            options = ocp.CheckpointManagerOptions(
                enable_async_checkpointing=False, create=False, max_to_keep=_KEPT[name], multiprocessing_options=alone
            )
            handlers: Any = {
                "arrays": ocp.StandardCheckpointHandler(multiprocessing_options=alone),
                "record": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
            }
            with readable(folder):
                self._managers[name] = ocp.CheckpointManager(folder, item_handlers=handlers, options=options)
        return self._managers[name]

    @property
    def _steps(self) -> ocp.CheckpointManager:
        return self._manager("checkpoints")

    @property
    def _states(self) -> ocp.CheckpointManager:
        return self._manager("state")

    def save(self, chunk: Chunk | None, record: dict[str, Any], state: PyTree[Any] | None = None) -> None:
        """Saves what has come since the last step, which `restore` or `go_on` has read if there is one.

        Args:
            chunk: newly learned tasks, if there are any.
            record: what was measured, as plain data.
            state: replaces the last one, if there is a new one.

        Raises:
            UserError: if it cannot be written.
        """
        if not hosts.is_first():
            return
        latest = self._steps.latest_step()
        step = 0 if latest is None else latest + 1
        if state is not None:  # before the step that needs it; should that not follow, the last but one is still there
            for unused in self._states.all_steps():
                if unused >= step:
                    self._states.delete(unused)
            save_step(self._states, step, arrays=ocp.args.StandardSave(state))
            self._state = {"state_step": step, "state_sha256": digest_of(state)}
        plain = {
            "format": FORMAT,
            **self._run,
            "new_tasks": chunk.num_tasks if chunk else 0,
            "record": record,
            "follows": self._last,
            **self._state,
        }
        arrays = named_arrays(chunk.bank, chunk.stats) if chunk else {}
        self._last = save_with_record(self._steps, step, plain, arrays)

    def restore(
        self,
        template: Callable[[int], tuple[PyTree[Any], PyTree[Any]]],
        state_template: PyTree[Any] | None = None,
        last: int | None = None,
    ) -> Saved:
        """Everything saved so far.

        Args:
            template: gives the shapes and types of bank and statistics for a number of tasks.
            state_template: the shapes and types of the state.
            last: the last step to read, if not all.

        Raises:
            UserError: if a step is missing, cannot be read, or was written by another version.
        """
        saved, records = [], hosts.told_by_first(lambda: self.records(last))
        progress = Progress(f"reading {self._folder}", len(records), "checkpoints")
        for number, plain in progress.of(enumerate(records)):
            chunk = None
            if tasks := plain["new_tasks"]:
                named = named_arrays(*template(tasks))
                arrays = self._arrays("checkpoints", number, named, plain.get("arrays_sha256")) if named else {}
                chunk = Chunk(tasks, arrays.get("store", {}), arrays.get("stats", {}))
            self._state = {name: plain.get(name) for name in _NO_STATE}
            saved.append(Step(chunk, {name: plain[name] for name in _OF_RUN if name in plain}, plain["record"]))
        if (step := self._state["state_step"]) is None:
            return Saved(saved, None)
        if hosts.told_by_first(lambda: step not in self._states.all_steps()):
            why = "it is missing" if last is None else "what it shared has been replaced"
            raise unusable(self._folder / f"state/{step}", why)
        return Saved(saved, self._arrays("state", step, state_template, self._state["state_sha256"]))

    def go_on(self) -> int:
        """Goes on after the last step, without reading what it holds; with how many steps there are.

        Raises:
            UserError: if the last step cannot be read.
        """
        if not (self._folder / "checkpoints").is_dir():
            return 0
        steps = sorted(self._steps.all_steps())
        if steps:
            plain, self._last = read_record(self._steps, steps[-1])
            self._state = {name: plain.get(name) for name in _NO_STATE}
        return len(steps)

    def _arrays(self, name: str, number: int, shapes: PyTree[Any], digest: str | None) -> Any:
        """The arrays of a step in one of the folders, which the first host reads."""
        return hosts.from_first(lambda: read_arrays(self._manager(name), number, shapes, digest), shapes)

    def records(self, last: int | None = None) -> list[dict[str, Any]]:
        """What every step says, in order; on the first host only.

        Args:
            last: the last step to read, if not all.

        Raises:
            UserError: if one is missing, cannot be read, or was written by another version.
        """
        numbers = {int(step.name) for step in (self._folder / "checkpoints").glob("[0-9]*") if step.name.isdecimal()}
        if last is not None and last not in numbers:
            there = f"steps 0 to {max(numbers)}" if numbers else "none"
            raise UserError(f"{self._folder} has no checkpoint {last}; there are {there}")
        records, self._last = [], None
        for number in range(max(numbers, default=-1) + 1 if last is None else last + 1):
            step = self._folder / f"checkpoints/{number}"
            if number not in numbers:
                raise unusable(step, "it is missing")
            plain, digest = read_record(self._steps, number)
            if plain.get("format") not in _READ:
                raise unusable(
                    step, f"it is of another format than {' and '.join(map(str, _READ))}, which this version reads"
                )
            if not {"experiment", "new_tasks", "record"} <= plain.keys():
                raise unusable(step, "it does not say what it holds")
            if plain.pop("follows", self._last) != self._last:  # the first of format 3 do not say it
                raise unusable(step, "it does not follow the step before it: one of them is another's")
            self._last = digest
            records.append(plain | {"experiment": formats.upgraded(plain["experiment"])})
        return records

    def save_unfinished(self, unfinished: Unfinished) -> None:
        """Saves how far a task is, in place of what was saved of it before.

        Raises:
            UserError: if it cannot be written.
        """
        plain = {"task": unfinished.task, "done": unfinished.done, "measured": unfinished.measured}
        self._replace("unfinished", plain, numbered(unfinished.arrays))

    def save_evaluation(self, result: dict[str, Any]) -> None:
        """Saves how far an evaluation is, as plain data, in place of what was saved of it before.

        Raises:
            UserError: if it cannot be written.
        """
        self._replace("evaluation", {"evaluation": result}, {})

    def restore_unfinished(self, task: int, template: PyTree[Any]) -> Unfinished | None:
        """How far a task was, if anything was saved of it.

        Args:
            task: its number.
            template: the shapes and types of the arrays.

        Raises:
            UserError: if it cannot be read.
        """
        plain = self._latest("unfinished")
        if plain is None or plain["task"] != task:
            return None
        named = numbered(template)
        arrays = self._arrays("unfinished", plain["step"], named, plain.get("arrays_sha256"))
        tree = jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in named])
        return Unfinished(task, plain["done"], tree, plain["measured"], plain.get("run"))

    def restore_evaluation(self) -> dict[str, Any] | None:
        """How far an evaluation was, if anything was saved of it: as `evaluation`, and its `run`.

        Raises:
            UserError: if it cannot be read.
        """
        return self._latest("evaluation")

    def forget_unfinished(self) -> None:
        """Removes what was saved of a task before it was learned."""
        self._forget("unfinished")

    def forget_evaluation(self) -> None:
        """Removes what was saved of an evaluation before it was finished."""
        self._forget("evaluation")

    def _replace(self, name: str, plain: dict[str, Any], arrays: PyTree[Any]) -> None:
        """Saves unfinished work in one of the folders, in place of what is there."""
        if hosts.is_first():
            manager = self._manager(name)
            latest = manager.latest_step()
            save_with_record(manager, 0 if latest is None else latest + 1, plain | {"run": self._run}, arrays)

    def _latest(self, name: str) -> dict[str, Any] | None:
        """What unfinished work in one of the folders says, and the number of its `step`; `None` if there is none."""

        def record() -> dict[str, Any] | None:
            if not (self._folder / name).is_dir() or (latest := self._manager(name).latest_step()) is None:
                return None
            plain, _ = read_record(self._manager(name), latest)
            if run := plain.get("run"):
                run |= {"experiment": formats.upgraded(run["experiment"])}
            return plain | {"step": latest}

        return hosts.told_by_first(record)

    def _forget(self, name: str) -> None:
        """Removes unfinished work from one of the folders."""
        if hosts.is_first() and (self._folder / name).is_dir():
            for step in self._manager(name).all_steps():
                self._manager(name).delete(step)


def describe(experiment: Experiment, inputs: Inputs, weights: Weights) -> dict[str, Any]:
    """The run as plain data, as `Checkpoints` takes it.

    Args:
        experiment: its settings.
        inputs: what images are to its network.
        weights: the shared weights as they were drawn.
    """
    return {
        "experiment": composition.plain(experiment),
        "inputs": inputs._asdict(),
        "weights": _first_values(weights),
        "flags": numerics.rounding(),
    }


def check_weights(here: dict[str, Any], described: dict[str, Any], folder: Path) -> None:
    """Checks that a run was described with the weights that its seed gives here, if it was described with any.

    Prints a warning if the weights are the same, and flags of JAX that change how results are rounded differ.

    Args:
        here: the run as `describe` describes it here.
        described: the run as its checkpoint describes it.
        folder: the run's.

    Raises:
        UserError: if the weights differ, as another version of JAX, or another network, would draw them.
    """
    if "weights" not in described:  # format 2
        return
    flags = numerics.rounding_differs(described["flags"]) if "flags" in described else ""
    drawn = here["weights"]
    fits = drawn.keys() == described["weights"].keys() and all(
        np.allclose(values, described["weights"][name], rtol=1e-4, atol=1e-6) for name, values in drawn.items()
    )
    if not fits:
        raise UserError(
            f"{folder} was learned with other weights than its seed gives here; use the network and the version of JAX "
            f"that it was made with{_of_flags(described, flags)}"
        )
    if flags:
        warn(f"{folder} was learned with other flags of JAX: {flags}; results may be rounded differently")


def _of_flags(described: dict[str, Any], flags: str) -> str:
    """What the error of other weights adds about flags, given those that differ, in words."""
    if "flags" not in described:
        return ", or supsup_jax 0.1 if a flag such as JAX_ENABLE_X64 was set then"
    return f", and its flags: {flags}" if flags else ""


def _first_values(weights: Weights) -> dict[str, list[float]]:
    """The first few values of every layer; devices of another kind may round them otherwise."""
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf.reshape(-1)[:_SHOWN]).tolist()
        for path, leaf in leaves
    }
