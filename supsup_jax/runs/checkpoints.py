"""Checkpoints of a run: written after every chunk of tasks, and read to resume or restore the run.

A checkpoint holds the changes since the previous one: adapters and statistics of new tasks, and measurements. The size
of all checkpoints therefore grows in proportion to the number of tasks. Each checkpoint also holds the experiment,
whose seed determines the weights that are never trained. Arrays that tasks replace, such as trained base weights, are
the *state* of a run, as are base weights that the user gave. The state has a separate folder, in which only the last
two versions are kept. A partly learned task (`unfinished`) and a partly finished `evaluation` are saved as well; only
their last version is kept, until they are finished.

Saving is synchronous and atomic. The metadata and the arrays of a checkpoint have checksums, because Orbax does not
report flipped bits. Each checkpoint stores the checksum of its predecessor, so that no other checkpoint can replace it.

With several hosts, only the first one reads and writes.
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
"""Version of the checkpoint format. Version 2, the first published one, has no checksums, inputs or weights."""

_READABLE_FORMATS = (2, FORMAT)

# Metadata of a checkpoint without a state.
_NO_STATE = {"state_step": None, "state_sha256": None}

# Keys of the metadata that describe the run.
_RUN_KEYS = ("experiment", "inputs", "weights", "base_weights_sha256", "flags")

# Maximum number of versions to keep in each folder.
_MAX_TO_KEEP = {"checkpoints": None, "state": 2, "unfinished": 1, "evaluation": 1}


class Chunk(NamedTuple):
    """Some tasks as stored in a checkpoint, on the host.

    Attributes:
        num_tasks: number of tasks.
        bank: adapters of the tasks, packed.
        stats: statistics of the tasks, stacked along a leading task axis; `{}` if there are none.
    """

    num_tasks: int
    bank: PyTree[Any]
    stats: PyTree[Any]


class Step(NamedTuple):
    """Contents of one checkpoint.

    Attributes:
        chunk: tasks learned since the previous checkpoint; `None` if there are none.
        run: description of the run as plain data; see `Checkpoints`.
        record: measurements since the previous checkpoint, as plain data.
    """

    chunk: Chunk | None
    run: dict[str, Any]
    record: dict[str, Any]


class Saved(NamedTuple):
    """Contents of all checkpoints of a run.

    Attributes:
        steps: all checkpoints, in order.
        state: state that belongs to the last checkpoint; `None` if there is none.
    """

    steps: list[Step]
    state: PyTree[Any] | None


class Checkpoints:
    """Checkpoints of one run, in the folders `checkpoints`, `state`, `unfinished` and `evaluation`.

    This class is a context manager.

    Args:
        folder: folder of the run.
        run: description of the run as plain data, stored in every checkpoint: its `experiment`, its `inputs`, the first
            of its `weights`, and the checksum of weights that the user gave. Omit it to read only; a reader takes no
            lock and writes nothing.

    Attributes:
        folder: folder of the run, as given.
    """

    def __init__(self, folder: Path, run: dict[str, Any] | None = None):
        self.folder, self._run = folder, run or {}
        self._folder = folder.absolute()  # Orbax needs an absolute path, and does not always report a relative one
        self._records: list[dict[str, Any]] = []  # metadata of the checkpoints read so far
        self._digests: list[str] = []  # their checksums
        self._managers: dict[str, ocp.CheckpointManager] = {}
        self._state: dict[str, Any] = _NO_STATE
        self._last: str | None = None  # checksum of the last checkpoint

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        for manager in self._managers.values():
            manager.close()

    def _manager(self, name: str) -> ocp.CheckpointManager:
        """Return the manager of a folder. It is created on first use, since most runs have no state."""
        if name not in self._managers:
            folder = self._folder / name
            if self._run:
                folder.mkdir(exist_ok=True)
            check_files(folder)
            multiprocessing = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix=name
            )
            options = ocp.CheckpointManagerOptions(
                enable_async_checkpointing=False,
                create=False,
                max_to_keep=_MAX_TO_KEEP[name],
                multiprocessing_options=multiprocessing,
            )
            handlers: Any = {
                "arrays": ocp.StandardCheckpointHandler(multiprocessing_options=multiprocessing),
                "record": ocp.JsonCheckpointHandler(multiprocessing_options=multiprocessing),
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
        """Save a new checkpoint. Existing checkpoints must have been read by `restore` or `resume` before.

        Args:
            chunk: newly learned tasks, or `None`.
            record: measurements as plain data.
            state: the new state, or `None` if it has not changed.

        Raises:
            UserError: if the checkpoint cannot be written.
        """
        if not hosts.is_first():
            return
        latest = self._steps.latest_step()
        step = 0 if latest is None else latest + 1
        if state is not None:  # save it before the checkpoint that needs it; if that fails, the previous one remains
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
        """Read all checkpoints.

        Args:
            template: returns the shapes and dtypes of bank and statistics for a number of tasks.
            state_template: shapes and dtypes of the state.
            last: number of the last checkpoint to read; by default all are read.

        Raises:
            UserError: if a checkpoint is missing, damaged, or in an unknown format.
        """
        records = hosts.broadcast(lambda: self.records(last))
        self._state = {name: records[-1].get(name) for name in _NO_STATE} if records else _NO_STATE
        state = None  # read it first: another process may write now, and keeps only the last two
        if (step := self._state["state_step"]) is not None:
            if hosts.broadcast(lambda: not (self._folder / f"state/{step}").is_dir()):
                why = "it is missing" if last is None else "later tasks have replaced it"
                raise unusable(self._folder / f"state/{step}", why)
            state = self._arrays("state", step, state_template, self._state["state_sha256"])
        saved = []
        progress = Progress(f"reading {self._folder}", len(records), "checkpoints")
        for number, plain in progress.track(enumerate(records)):
            chunk = None
            if tasks := plain["new_tasks"]:
                named = named_arrays(*template(tasks))
                arrays = self._arrays("checkpoints", number, named, plain.get("arrays_sha256")) if named else {}
                chunk = Chunk(tasks, arrays.get("store", {}), arrays.get("stats", {}))
            saved.append(Step(chunk, {name: plain[name] for name in _RUN_KEYS if name in plain}, plain["record"]))
        return Saved(saved, state)

    def resume(self) -> int:
        """Prepare to save further checkpoints without reading the existing ones, and return their number.

        Raises:
            UserError: if the last checkpoint cannot be read.
        """
        if not (self._folder / "checkpoints").is_dir():
            return 0
        steps = sorted(self._steps.all_steps())
        if steps:
            plain, self._last = read_record(self._steps, steps[-1])
            self._state = {name: plain.get(name) for name in _NO_STATE}
        return len(steps)

    def _arrays(self, name: str, number: int, shapes: PyTree[Any], digest: str | None) -> Any:
        """Return arrays of a checkpoint in one of the folders; the first host reads them."""
        return hosts.broadcast_arrays(lambda: read_arrays(self._manager(name), number, shapes, digest), shapes)

    def records(self, last: int | None = None) -> list[dict[str, Any]]:
        """Return the metadata of all checkpoints, in order; on the first host only.

        Args:
            last: number of the last checkpoint to read; by default all are read.

        Raises:
            UserError: if a checkpoint is missing, damaged, or in an unknown format.
        """
        while True:  # another process may add checkpoints now
            numbers = self._numbers()
            if last is not None and last not in numbers:
                existing = f"give 0 to {max(numbers)}" if numbers else "it has no checkpoints yet"
                raise UserError(f"{self._folder} has no checkpoint {last}; {existing}")
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
        """Return the numbers of all checkpoints."""
        try:
            names = os.listdir(self._folder / "checkpoints")
        except FileNotFoundError:
            return set()
        return {int(name) for name in names if name.isdecimal()}

    def _record(self, number: int, numbers: set[int]) -> tuple[dict[str, Any], str]:
        """Return the metadata of a checkpoint and its checksum, given the numbers of all checkpoints.

        The previous checkpoints must have been read before.
        """
        step = self._folder / f"checkpoints/{number}"
        if number not in numbers and not step.is_dir():  # a network file system may leave it out of the list
            raise unusable(step, "it is missing")
        plain, digest = read_record(self._steps, number)
        if plain.get("format") not in _READABLE_FORMATS:
            formats_read = " and ".join(map(str, _READABLE_FORMATS))
            raise unusable(step, f"its format is {plain.get('format')}; this version reads formats {formats_read}")
        if not {"experiment", "new_tasks", "record"} <= plain.keys():
            raise unusable(step, "its metadata is incomplete")
        previous = self._digests[-1] if self._digests else None
        if plain.pop("follows", previous) != previous:  # early checkpoints of format 3 lack this key
            raise unusable(step, "it does not follow the checkpoint before it: one of them belongs to another run")
        return plain | {"experiment": formats.upgraded(plain["experiment"])}, digest

    def replace(self, name: str, plain: dict[str, Any], arrays: PyTree[Any]) -> None:
        """Save partial work in one of the folders, in place of its previous version.

        Args:
            name: `unfinished` or `evaluation`.
            plain: the work as plain data.
            arrays: its arrays; may be empty.

        Raises:
            UserError: if the work cannot be written.
        """
        if hosts.is_first():
            manager = self._manager(name)
            latest = manager.latest_step()
            step = 0 if latest is None else latest + 1
            save_with_record(manager, step, plain | {"run": self._run}, numbered(arrays))

    def latest(self, name: str) -> dict[str, Any] | None:
        """Return the partial work in one of the folders as plain data, without its arrays; `None` if there is none.

        It includes the description of the `run` that saved it, except for work saved by old versions.

        Raises:
            UserError: if the work cannot be read.
        """

        def record() -> dict[str, Any] | None:
            if not (self._folder / name).is_dir() or (latest := self._manager(name).latest_step()) is None:
                return None
            plain, _ = read_record(self._manager(name), latest)
            if run := plain.get("run"):
                run |= {"experiment": formats.upgraded(run["experiment"])}
            return plain | {"step": latest}

        return hosts.broadcast(record)

    def latest_arrays(self, name: str, saved: dict[str, Any], template: PyTree[Any]) -> PyTree[Any]:
        """Return the arrays of partial work.

        Args:
            name: `unfinished` or `evaluation`.
            saved: the work as returned by `latest`.
            template: shapes and dtypes of the arrays.

        Raises:
            UserError: if the arrays cannot be read.
        """
        named = numbered(template)
        arrays = self._arrays(name, saved["step"], named, saved.get("arrays_sha256"))
        return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in named])

    def forget(self, name: str) -> None:
        """Delete the partial work in one of the folders."""
        if hosts.is_first() and (self._folder / name).is_dir():
            for step in self._manager(name).all_steps():
                self._manager(name).delete(step)
