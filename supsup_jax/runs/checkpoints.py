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

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from supsup_jax.errors import UserError
from supsup_jax.runs import formats
from supsup_jax.runs.steps import (
    check_files,
    digest_of,
    named_arrays,
    numbered,
    read_arrays,
    read_record,
    readable,
    save_step,
    save_with_record,
    unusable,
)
from supsup_jax.system import hosts
from supsup_jax.system.progress import Progress

FORMAT = 3
"""Version of what a step holds. Steps of format 2, the first that was published, have neither checksums nor what images
and weights are like; they are read as well."""

_READ = (2, FORMAT)

# What a step says of the state that goes with it, where there is none.
_NO_STATE = {"state_step": None, "state_sha256": None}

# What a step says of the run.
_OF_RUN = ("experiment", "inputs", "weights", "flags")

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
            are, and the first of its `weights`. To read, it is left out: readers take no lock and write nothing.

    Attributes:
        folder: the run's folder, as it was given.
    """

    def __init__(self, folder: Path, run: dict[str, Any] | None = None):
        self.folder, self._run = folder, run or {}
        self._folder = folder.absolute()  # Orbax refuses a relative path, and not always aloud
        self._records: list[dict[str, Any]] = []  # of the first steps, as they were read
        self._digests: list[str] = []  # their checksums
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
            if self._run:
                folder.mkdir(exist_ok=True)
            check_files(folder)
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
        """Saves what has come since the last step, which `restore` or `resume` has read if there is one.

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
        records = hosts.told_by_first(lambda: self.records(last))
        self._state = {name: records[-1].get(name) for name in _NO_STATE} if records else _NO_STATE
        state = None  # read at once: a process that writes meanwhile keeps the last two
        if (step := self._state["state_step"]) is not None:
            if hosts.told_by_first(lambda: not (self._folder / f"state/{step}").is_dir()):
                why = "it is missing" if last is None else "what it shared has been replaced"
                raise unusable(self._folder / f"state/{step}", why)
            state = self._arrays("state", step, state_template, self._state["state_sha256"])
        saved = []
        progress = Progress(f"reading {self._folder}", len(records), "checkpoints")
        for number, plain in progress.of(enumerate(records)):
            chunk = None
            if tasks := plain["new_tasks"]:
                named = named_arrays(*template(tasks))
                arrays = self._arrays("checkpoints", number, named, plain.get("arrays_sha256")) if named else {}
                chunk = Chunk(tasks, arrays.get("store", {}), arrays.get("stats", {}))
            saved.append(Step(chunk, {name: plain[name] for name in _OF_RUN if name in plain}, plain["record"]))
        return Saved(saved, state)

    def resume(self) -> int:
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
        while True:  # another process may add some meanwhile
            numbers = self._numbers()
            if last is not None and last not in numbers:
                there = f"steps 0 to {max(numbers)}" if numbers else "none"
                raise UserError(f"{self._folder} has no checkpoint {last}; there are {there}")
            count = max(numbers, default=-1) + 1 if last is None else last + 1
            if count <= len(self._records):
                break
            if "checkpoints" in self._managers:
                check_files(self._folder / "checkpoints")
                self._steps.reload()
            while len(self._records) < count:
                record, digest = self._record(len(self._records), numbers)
                self._records.append(record)
                self._digests.append(digest)
        self._last = self._digests[count - 1] if count else None
        return self._records[:count]

    def _numbers(self) -> set[int]:
        """The numbers of all steps."""
        try:
            names = os.listdir(self._folder / "checkpoints")
        except FileNotFoundError:
            return set()
        return {int(name) for name in names if name.isdecimal()}

    def _record(self, number: int, numbers: set[int]) -> tuple[dict[str, Any], str]:
        """What a step says, and its checksum, given the numbers of all steps and those before it."""
        step = self._folder / f"checkpoints/{number}"
        if number not in numbers and not step.is_dir():  # a list may lack it on a network file system
            raise unusable(step, "it is missing")
        plain, digest = read_record(self._steps, number)
        if plain.get("format") not in _READ:
            raise unusable(
                step, f"it is of another format than {' and '.join(map(str, _READ))}, which this version reads"
            )
        if not {"experiment", "new_tasks", "record"} <= plain.keys():
            raise unusable(step, "it does not say what it holds")
        before = self._digests[-1] if self._digests else None
        if plain.pop("follows", before) != before:  # the first of format 3 do not say it
            raise unusable(step, "it does not follow the step before it: one of them is another's")
        return plain | {"experiment": formats.upgraded(plain["experiment"])}, digest

    def replace(self, name: str, plain: dict[str, Any], arrays: PyTree[Any]) -> None:
        """Saves unfinished work in one of the folders, in place of what is there.

        Args:
            name: of the folder: `unfinished` or `evaluation`.
            plain: the work as plain data.
            arrays: its arrays, if it has any.

        Raises:
            UserError: if it cannot be written.
        """
        if hosts.is_first():
            manager = self._manager(name)
            latest = manager.latest_step()
            step = 0 if latest is None else latest + 1
            save_with_record(manager, step, plain | {"run": self._run}, numbered(arrays))

    def latest(self, name: str) -> dict[str, Any] | None:
        """The unfinished work in one of the folders as plain data, without its arrays; `None` if there is none.

        With it goes the metadata of the `run` that saved it, but for old ones.

        Raises:
            UserError: if it cannot be read.
        """

        def record() -> dict[str, Any] | None:
            if not (self._folder / name).is_dir() or (latest := self._manager(name).latest_step()) is None:
                return None
            plain, _ = read_record(self._manager(name), latest)
            if run := plain.get("run"):
                run |= {"experiment": formats.upgraded(run["experiment"])}
            return plain | {"step": latest}

        return hosts.told_by_first(record)

    def latest_arrays(self, name: str, saved: dict[str, Any], template: PyTree[Any]) -> PyTree[Any]:
        """The arrays of unfinished work.

        Args:
            name: of the folder.
            saved: the work, as `latest` gives it.
            template: the shapes and types of the arrays.

        Raises:
            UserError: if they cannot be read.
        """
        named = numbered(template)
        arrays = self._arrays(name, saved["step"], named, saved.get("arrays_sha256"))
        return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in named])

    def forget(self, name: str) -> None:
        """Removes unfinished work from one of the folders."""
        if hosts.is_first() and (self._folder / name).is_dir():
            for step in self._manager(name).all_steps():
                self._manager(name).delete(step)
