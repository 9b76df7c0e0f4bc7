"""Searches among simulated tasks whose masks are on disk, for `scale.py --on-disk`."""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

TILE = 2**31
"""Bytes of simulated rows that are written at once, which takes about three times the memory."""

READ = 2**20


def written(run: Any, num_tasks: int, folder: Path, simulated: Callable[..., np.ndarray]) -> None:
    """Write a bank of the tasks of a run and simulated ones, unless the folder contains it already.

    Args:
        run: the run.
        num_tasks: number of tasks in the bank; a multiple of 8.
        folder: folder of the bank.
        simulated: returns random rows, see `scale.simulated`.
    """
    import jax

    from supsup_jax.bank.files import BankFiles
    from supsup_jax.bank.segments import BankFileError
    from supsup_jax.bank.writer import BankWriter

    learned = run.model.with_counts()
    known = learned.num_tasks // 8
    banked, counted = jax.device_get((jax.tree.leaves(learned.bank), jax.tree.leaves(learned.counts)))
    rows = np.concatenate([leaf.reshape(-1, leaf.shape[-1]) for leaf in banked])
    counts = np.concatenate([leaf.reshape(-1) for leaf in counted])
    source = f"{num_tasks} tasks, the first {8 * known} of {run.record.tasks[-1].finished}"
    try:
        if BankFiles(folder).source == source:
            return
    except BankFileError:
        pass
    shares = (counts + 1) / (learned.num_tasks + 2)
    step = max(8, min(2**14, TILE // (num_tasks // 8)) // 8 * 8)
    with BankWriter(folder, run.weights, num_tasks, source) as writer:
        for first in range(0, len(shares), step):
            tile = simulated(shares[first : first + step], num_tasks // 8, seed=first)
            tile[:, :known] = rows[first : first + step, :known]
            writer.write(tile, first)


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("segments-*/*.bin"))


def drop(folder: Path) -> None:
    """Drop the files of a bank from the page cache, so that the next search reads them from disk."""
    for path in files_of(folder):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate_of(folder: Path) -> float:
    """Return the rate at which the disk reads a segment in order, with 16 requests at a time, in bytes a second."""
    drop(folder)
    path = files_of(folder)[-1]
    size = min(path.stat().st_size, 2**30)

    def read(start: int) -> int:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            return len(file.read(READ))

    with ThreadPoolExecutor(16) as threads:
        started = time.perf_counter()
        total = sum(threads.map(read, range(0, size, READ)))
        return total / (time.perf_counter() - started)


def measure(run: Any, shown: np.ndarray, folder: Path, objective: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements of one bank.

    Args:
        run: the run whose tasks are the first ones of the bank.
        shown: normalised images of these tasks, `(tasks, images, height, width, channels)`.
        folder: folder of the bank.
        objective: the objective of the searches.
        arguments: the arguments of the command line.
    """
    import supsup_jax as ss
    from supsup_jax.bank.files import BankFiles
    from supsup_jax.inference import on_disk

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    bank = BankFiles(folder)
    model = on_disk.model_on_disk(run.net, run.method, run.weights, {}, bank)
    opened = time.perf_counter() - started
    rate, rows = rate_of(folder), []
    for share in arguments.shares:
        search = ss.Shortlist(objective, shortlist=arguments.shortlist, share=share, margin=arguments.margin)
        for is_cold in (True, False):
            picks = [(task, image) for task in range(len(shown)) for image in shown[task, : arguments.images, None]]
            seconds, num_bytes, right = [], [], []
            for number, (task, image) in enumerate([picks[0], *picks]):  # the first call compiles
                if is_cold:
                    drop(folder)
                read, started = bank.bytes_read, time.perf_counter()
                (scores,) = on_disk.scores(model, bank, image, search, memory=arguments.memory)
                pick = int(scores.argmin())
                if number:
                    seconds.append(time.perf_counter() - started)
                    num_bytes.append(bank.bytes_read - read)
                    right.append(pick == task)
            rows.append(
                {
                    "share": share,
                    "cache": "cold" if is_cold else "warm",
                    "picks": len(right),
                    "seconds": statistics.median(seconds),
                    "longest": max(seconds),
                    "bytes": statistics.fmean(num_bytes),
                    "floor": statistics.fmean(num_bytes) / rate if is_cold else None,
                    "right": statistics.fmean(right),
                }
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = sum(path.stat().st_size for path in files_of(folder))
    sizes = {"size": size, "rate": rate, "memory": peak, "memory_before": before, "opened": opened}
    return {"tasks": bank.num_tasks, "learned": run.num_tasks, **sizes, "rows": rows}


def markdown(results: list[dict[str, Any]]) -> str:
    """Return a table with a row for each number of tasks, share and state of the cache."""
    names = ["tasks", "share", "page cache", "seconds an image", "longest", "read", "seconds to read it in order"]
    names += ["task found", "bank on disk", "peak memory"]
    lines = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    for result in results:
        memory = f"{result['memory'] / 1e6:,.0f} MB"
        for row in result["rows"]:
            floor = "" if row["floor"] is None else f"{row['floor']:.2f}"
            cells = [f"{result['tasks']:,}", f"1/{round(1 / row['share'])}", row["cache"], f"{row['seconds']:.2f}"]
            cells += [f"{row['longest']:.2f}", f"{row['bytes'] / 1e6:,.0f} MB", floor]
            cells += [f"{100 * row['right']:.1f} % of {row['picks']}", f"{result['size'] / 1e9:.1f} GB"]
            lines.append(f"| {' | '.join([*cells, memory])} |")
    return "\n".join(lines)
