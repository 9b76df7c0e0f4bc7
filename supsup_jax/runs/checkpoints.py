"""Checkpoints of a run: written after every chunk of tasks, and read to resume or restore the run.

A checkpoint holds the changes since the previous one: adapters and statistics of new tasks, and measurements. The size
of all checkpoints therefore grows in proportion to the number of tasks. Small checkpoints are merged into larger ones,
see `merging`. Each checkpoint also holds the experiment, whose seed determines the weights that are never trained.
Arrays that tasks replace, such as trained base weights, are the *state* of a run, as are base weights that the user
gave. The state has a separate folder, in which only the last two versions are kept. A partly learned task
(`unfinished`) and a partly finished `evaluation` are saved as well; only their last version is kept, until they are
finished.

Saving is synchronous and atomic. The metadata and the arrays of a checkpoint have checksums, because Orbax does not
report flipped bits. Each save stores the checksum of the metadata of its predecessor, so that no other save can replace
it; a merged checkpoint keeps the metadata of all of its saves.

With several hosts, only the first one reads and writes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from supsup_jax.errors import UserError, reason, warn
from supsup_jax.runs import chunks, formats, merging
from supsup_jax.runs.chunks import Chunk, Saved, Step, Stored, Tasks
from supsup_jax.runs.steps import (
    check_files,
    digest_of,
    digest_of_plain,
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

_READABLE_FORMATS = (2, FORMAT, merging.FORMAT)

# Metadata of a checkpoint without a state.
_NO_STATE = {"state_step": None, "state_sha256": None}

# Keys of the metadata that describe the run.
_RUN_KEYS = ("experiment", "inputs", "weights", "base_weights_sha256", "flags")

# Maximum number of versions to keep in each folder.
_MAX_TO_KEEP = {"checkpoints": None, merging.FOLDER: None, "state": 2, "unfinished": 1, "evaluation": 1}


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
        self._stored: list[Stored] = []  # the checkpoints read so far
        self._records: list[dict[str, Any]] = []  # metadata of their saves
        self._digests: list[str] = []  # checksums of the metadata
        self._managers: dict[str, ocp.CheckpointManager] = {}
        self._state: dict[str, Any] = _NO_STATE
        self._last: str | None = None  # checksum of the last save
        self._firsts: list[int] = []  # numbers of all checkpoints
        self._next = 0  # number of the next save
        self._merges = True

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self._managers]:
            self._close(name)

    def _close(self, name: str) -> None:
        if manager := self._managers.pop(name, None):
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
        step = self._next
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
        self._firsts.append(step)
        self._next += 1

    def merge(self, tasks: Tasks) -> None:
        """Merge small checkpoints into larger ones, if there are many; the saves and their numbers stay the same.

        If that fails, a warning says so, and the checkpoints remain as they are.
        """
        if not self._merges or not hosts.is_first():
            return
        group = merging.due(self._folder / "checkpoints", self._firsts, self._next)
        if not group:
            return
        try:
            merging.finish(self._folder)
            merging.merge(self._manager, self._folder, group, tasks, _RUN_KEYS)
        except (UserError, OSError) as error:
            self._merges = False
            with suppress(OSError):
                merging.finish(self._folder)
            warn(f"small checkpoints in {self.folder} are not merged: {reason(error)}")
        self._close(merging.FOLDER)
        self._steps.reload()
        self._firsts = sorted(self._numbers())

    def restore(
        self,
        template: Callable[[int], tuple[PyTree[Any], PyTree[Any]]] | None,
        state_template: PyTree[Any] | None = None,
        last: int | None = None,
        concatenate: Callable[[Sequence[Chunk]], Chunk] | None = None,
    ) -> Saved:
        """Read all checkpoints.

        Args:
            template: returns the shapes and dtypes of bank and statistics for a number of tasks; `None` to read
                everything but the tasks.
            state_template: shapes and dtypes of the state.
            last: number of the last save to read; by default all are read.
            concatenate: see `Tasks`; required if saves after `last` may be merged with earlier ones.

        Raises:
            UserError: if a checkpoint is missing, damaged, or in an unknown format.
        """
        records, stored = hosts.broadcast(lambda: (self.records(last), self._stored))
        self._state = {name: records[-1].get(name) for name in _NO_STATE} if records else _NO_STATE
        state = None  # read it first: another process may write now, and keeps only the last two
        if (step := self._state["state_step"]) is not None:
            if hosts.broadcast(lambda: not (self._folder / f"state/{step}").is_dir()):
                why = "it is missing" if last is None else "later tasks have replaced it"
                raise unusable(self._folder / f"state/{step}", why)
            state = self._arrays("state", step, state_template, self._state["state_sha256"])
        steps = [
            Step(None, {name: plain[name] for name in _RUN_KEYS if name in plain}, plain["record"]) for plain in records
        ]
        if template is not None:
            progress = Progress(f"reading {self._folder}", len(stored), "checkpoints")
            found = progress.track(Stored(*fields) for fields in stored)
            for number, chunk in chunks.read(found, len(steps), self._read, template, concatenate):
                steps[number] = steps[number]._replace(chunk=chunk)
        return Saved(steps, state)

    def tasks(self, form: Tasks, last: int | None = None) -> Iterator[Chunk]:
        """Yield the tasks of all saves, one checkpoint at a time; on the first host only.

        Args:
            form: the form of the tasks of the run.
            last: number of the last save to read; by default all are read.

        Raises:
            UserError: as in `restore`.
        """
        count = len(self.records(last))
        stored = Progress(f"reading {self._folder}", len(self._stored), "checkpoints").track(self._stored)
        for _, chunk in chunks.read(stored, count, self._read, form.shapes, form.concatenate):
            yield chunk

    def _read(self, checkpoint: Stored, named: dict[str, Any]) -> dict[str, Any]:
        """Return the arrays of the tasks of a checkpoint, given their shapes; the first host reads them."""
        return self._arrays(checkpoint.place, checkpoint.first, named, checkpoint.digest) if named else {}

    def resume(self) -> int:
        """Prepare to save further checkpoints without reading the existing ones, and return the number of saves.

        Raises:
            UserError: if the last checkpoint cannot be read, or a merge that was interrupted cannot be completed.
        """
        if not (self._folder / "checkpoints").is_dir():
            return 0
        try:
            merging.finish(self._folder)
        except OSError as error:
            problem = f"contains merged checkpoints that cannot be put in their place ({reason(error)})"
            raise UserError(f"{self.folder} {problem}; make its files writable, then start again") from None
        self._firsts = sorted(self._numbers())
        if self._firsts:
            first = self._firsts[-1]
            plain, _ = read_record(self._steps, first)
            saves = merging.separated(plain, self._folder / f"checkpoints/{first}")
            self._next, self._last = first + len(saves), digest_of_plain(saves[-1])
            self._state = {name: saves[-1].get(name) for name in _NO_STATE}
        return self._next

    def _arrays(self, name: str, number: int, shapes: PyTree[Any], digest: str | None) -> Any:
        """Return arrays of a checkpoint in one of the folders; the first host reads them."""
        return hosts.broadcast_arrays(lambda: read_arrays(self._manager(name), number, shapes, digest), shapes)

    def records(self, last: int | None = None) -> list[dict[str, Any]]:
        """Return the metadata of all saves, in order; on the first host only.

        Args:
            last: number of the last save to read; by default all are read.

        Raises:
            UserError: if a checkpoint is missing, damaged, or in an unknown format.
        """
        while True:  # another process may add checkpoints now
            numbers = self._numbers()
            newest = max(numbers, default=-1)
            until = newest if last is None or last < 0 else min(last, newest)
            if until < len(self._records):
                break
            if "checkpoints" in self._managers:
                check_files(self._folder / "checkpoints")
                self._steps.reload()
            while until >= len(self._records):
                self._read_next(numbers)
        count = len(self._records)
        if last is not None and not 0 <= last < count:
            existing = f"give 0 to {count - 1}" if count else "it has no checkpoints yet"
            raise UserError(f"{self._folder} has no checkpoint {last}; {existing}")
        self._firsts, self._next = [checkpoint.first for checkpoint in self._stored], count
        if last is not None:
            count = last + 1
        self._last = self._digests[count - 1] if count else None
        return self._records[:count]

    def digest_of_tasks(self, last: int | None = None) -> str | None:
        """Return the checksum of the last save with tasks, which depends on all tasks; `None` if there are none.

        Args:
            last: number of the last save to consider; by default all are.
        """
        saves = zip(self.records(last), self._digests, strict=False)
        digests = [digest for save, digest in saves if save["new_tasks"]]
        return digests[-1] if digests else None

    def _numbers(self) -> set[int]:
        """Return the numbers of all checkpoints."""
        try:
            names = os.listdir(self._folder / "checkpoints")
        except FileNotFoundError:
            return set()
        return {int(name) for name in names if name.isdecimal()}

    def _read_next(self, numbers: set[int]) -> None:
        """Read the metadata of the checkpoint after those read so far, given the numbers of all checkpoints."""
        first, place = len(self._records), "checkpoints"
        step = self._folder / f"checkpoints/{first}"
        if first not in numbers and not step.is_dir():  # a network file system may leave it out of the list
            place = merging.FOLDER
            if not (self._folder / place / str(first)).is_dir():
                raise unusable(step, "it is missing")
        plain, _ = read_record(self._manager(place), first)
        if plain.get("format") not in _READABLE_FORMATS:
            formats_read = ", ".join(map(str, _READABLE_FORMATS))
            raise unusable(step, f"its format is {plain.get('format')}; this version reads formats {formats_read}")
        saves = merging.separated(plain, step)
        for save in saves:
            digest = digest_of_plain(save)
            if not {"experiment", "new_tasks", "record"} <= save.keys():
                raise unusable(step, "its metadata is incomplete")
            previous = self._digests[-1] if self._digests else None
            if save.pop("follows", previous) != previous:  # early checkpoints of format 3 lack this key
                raise unusable(step, "it does not follow the checkpoint before it: one of them belongs to another run")
            self._records.append(save | {"experiment": formats.upgraded(save["experiment"])})
            self._digests.append(digest)
        tasks = [save["new_tasks"] for save in saves]
        self._stored.append(Stored(place, first, tasks, plain.get("arrays_sha256")))

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
