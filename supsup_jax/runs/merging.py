"""Merging of small checkpoints into larger ones, so that their number grows with the logarithm of the number of saves.

A checkpoint holds one save or, once merged, several consecutive saves; the number of its folder is that of its first
save. As soon as the last `FACTOR` checkpoints are of similar size, they are merged. Each save is therefore written once
more for each power of `FACTOR`, however many there are.

A merged checkpoint is written to the folder `merging`, read back and synced to disk, before two renames put it in the
place of the first old checkpoint. Then the other old checkpoints are removed. Old and new checkpoints return the same
records, so readers may see any state in between:

- Between the two renames, the merged checkpoint is still in `merging`, and readers find it there.
- After them, readers skip old checkpoints whose saves the merged checkpoint holds.

`finish` completes or discards a merge that was interrupted.
"""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from supsup_jax.runs.chunks import Chunk, Tasks
from supsup_jax.runs.steps import digest_of_plain, named_arrays, read_arrays, read_record, save_with_record, unusable
from supsup_jax.system import atomic

FORMAT = 4
"""Version of the format of merged checkpoints. Earlier versions of the library reject it with one line."""

FOLDER = "merging"
"""Folder of merged checkpoints until they are complete, and of the checkpoints that they replace."""

FACTOR = 8
"""Number of checkpoints of similar size that are merged into one."""

LARGEST = 2**27
"""Maximum size of a merged checkpoint in bytes. Merging takes about four times as much memory."""

# Names of replaced checkpoints in the folder `merging`; that of the first one contains the range of saves.
_FIRST = re.compile(r"(\d+)-(\d+)\.replaced")


def places(run: Path) -> list[Path]:
    """Return the folders that a reader of a run's tasks reads, which change while another process saves or merges."""
    return [run, *(run / name for name in ("checkpoints", FOLDER, "state"))]


def merge(
    managers: Callable[[str], ocp.CheckpointManager],
    run: Path,
    group: Sequence[int],
    tasks: Tasks,
    run_keys: Sequence[str],
) -> None:
    """Merge some consecutive checkpoints into one.

    Args:
        managers: returns the manager of a folder of the run.
        run: folder of the run.
        group: numbers of the checkpoints, in order.
        tasks: the form of the tasks of the run.
        run_keys: see `joined`.

    Raises:
        UserError: if a checkpoint is damaged, or the merged one cannot be written or read back.
        OSError: if the files cannot be put in their place. Call `finish` then.
    """
    saves: list[dict[str, Any]] = []
    chunks: list[Chunk] = []
    old, new, first = managers("checkpoints"), managers(FOLDER), group[0]
    for number in group:
        plain, _ = read_record(old, number)
        separate = separated(plain, run / f"checkpoints/{number}")
        saves += separate
        if count := sum(save["new_tasks"] for save in separate):
            chunks.append(_read_chunk(old, number, count, tasks, plain.get("arrays_sha256")))
    chunk = tasks.concatenate(chunks) if chunks else None
    chunks.clear()
    arrays = named_arrays(chunk.bank, chunk.stats) if chunk else {}
    save_with_record(new, first, joined(saves, run_keys), arrays)
    plain, _ = read_record(new, first)
    if chunk:
        _read_chunk(new, first, chunk.num_tasks, tasks, plain.get("arrays_sha256"))
    separate = separated(plain, run / f"{FOLDER}/{first}")
    if [*map(digest_of_plain, separate)] != [*map(digest_of_plain, saves)]:
        raise unusable(run / f"{FOLDER}/{first}", "its metadata is damaged")
    _put_in_place(run, first, first + len(saves) - 1)


def _read_chunk(manager: ocp.CheckpointManager, number: int, num_tasks: int, tasks: Tasks, digest: str | None) -> Chunk:
    """Return the tasks of a checkpoint."""
    named = named_arrays(*tasks.shapes(num_tasks))
    arrays = read_arrays(manager, number, named, digest) if named else {}
    return Chunk(num_tasks, arrays.get("store", {}), arrays.get("stats", {}))


def joined(saves: Sequence[dict[str, Any]], run_keys: Sequence[str]) -> dict[str, Any]:
    """Return the metadata of several saves as the metadata of one checkpoint.

    Args:
        saves: the metadata as stored in their own checkpoints.
        run_keys: keys that describe the run. Their values are mostly equal in all saves, and are stored once.
    """
    runs: dict[str, dict[str, Any]] = {}
    separate = []
    for plain in saves:
        run = {name: plain[name] for name in run_keys if name in plain}
        digest = digest_of_plain(run)  # unlike ==, it distinguishes 1 from 1.0
        runs.setdefault(digest, run)
        save = {name: value for name, value in plain.items() if name not in run}
        separate.append({"run": list(runs).index(digest), "save": save})
    return {"format": FORMAT, "runs": list(runs.values()), "saves": separate}


def separated(plain: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Return the metadata of each save in a checkpoint, exactly as before it was merged.

    Args:
        plain: metadata of the checkpoint.
        folder: folder of the checkpoint, for messages.

    Raises:
        UserError: if the metadata is malformed.
    """
    if plain.get("format") != FORMAT:
        return [plain]
    try:
        saves = [plain["runs"][entry["run"]] | entry["save"] for entry in plain["saves"]]
    except (KeyError, IndexError, TypeError):
        saves = []
    if not saves:
        raise unusable(folder, "its metadata is incomplete")
    return saves


def due(folder: Path, firsts: Sequence[int], following: int) -> list[int]:
    """Return the checkpoints to merge into one, by the number of their first save; empty if there are few.

    Args:
        folder: folder of the checkpoints.
        firsts: numbers of all checkpoints, in order.
        following: number of the next save.
    """
    sizes = [stop - first for first, stop in zip(firsts, [*firsts[1:], following], strict=True)]
    count = 0
    while sizes:
        level = _level(sizes[-1])
        similar = len([*takewhile(lambda size, level=level: _level(size) <= level, reversed(sizes))])
        if similar < FACTOR:
            break
        count = count + similar - 1 if count else similar
        sizes[-similar:] = [sum(sizes[-similar:])]
    if not count:
        return []
    num_bytes = [_num_bytes(folder / str(first)) for first in firsts[-count:]]
    small = len([*takewhile(lambda size: size <= LARGEST // FACTOR, reversed(num_bytes))])
    if small < FACTOR:
        return []
    fitting, total = [], 0
    for first, size in zip(firsts[-small:], num_bytes[-small:], strict=True):
        total += size
        if total > LARGEST:
            break
        fitting.append(first)
    return fitting


def _level(size: int) -> int:
    """Return the largest exponent of `FACTOR` whose power is at most `size`."""
    level = 0
    while size >= FACTOR:
        size, level = size // FACTOR, level + 1
    return level


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _put_in_place(run: Path, first: int, last: int) -> None:
    """Replace the checkpoints of some saves by the merged checkpoint in the folder `merging`."""
    merging = run / FOLDER
    for path in [merging / str(first), *(merging / str(first)).rglob("*"), merging]:
        atomic.sync(path)
    (run / f"checkpoints/{first}").rename(merging / f"{first}-{last}.replaced")
    _finish(run, first, last)


def finish(run: Path) -> None:
    """Complete a merge that was interrupted, or discard it if its checkpoint is not in place yet.

    Args:
        run: folder of the run.

    Raises:
        OSError: if a file cannot be synced or renamed.
    """
    merging = run / FOLDER
    if merging.is_dir():
        for name in os.listdir(merging):
            if match := _FIRST.fullmatch(name):
                _finish(run, int(match[1]), int(match[2]))
        shutil.rmtree(merging, ignore_errors=True)


def _finish(run: Path, first: int, last: int) -> None:
    """Complete a merge whose first old checkpoint has been moved away."""
    merging, place = run / FOLDER, run / "checkpoints"
    if not (place / str(first)).exists():
        (merging / str(first)).rename(place / str(first))
    atomic.sync(place)
    # Removed by renaming, since an old checkpoint without some of its files would be a damaged one.
    for number in range(first + 1, last + 1):
        if (place / str(number)).exists():
            (place / str(number)).rename(merging / f"{number}.replaced")
    shutil.rmtree(merging, ignore_errors=True)
