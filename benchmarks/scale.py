"""Task inference among up to hundreds of thousands of tasks: time, bytes read, memory, and right picks.

Command: python experiments/GNu/MNISTPerm/LeNet-2500-tasks/supsup_h.py --data data --num-tasks 64 --eval-at 64
         python benchmarks/scale.py runs/GNu/MNISTPerm/LeNet-2500-tasks/supsup_h/seed=1 --data data
         python benchmarks/scale.py RUN --data data --on-disk banks --tasks 1000000 --shares 0.03125 0.125
         python benchmarks/scale.py --draw scale.json scale-disk.json --output curve

The first masks are those of the run. The others are simulated: each weight is kept by the same share of tasks as in the
run, independently of the other weights. Images belong to tasks of the run, and are searched among all tasks. Searches
take turns on every image, each number of tasks in a separate process. Writes OUTPUT.md, OUTPUT.json and, if matplotlib
is installed, OUTPUT.png. With --draw, results of earlier calls are drawn together, and nothing is measured.

The floor of a search is the time for the bytes of the bank that it reads, at the rate at which the same process sums a
large array; on disk, at the rate at which the disk is read in order.

With --on-disk the masks are written to a folder, where a later call finds them, and searched from there: with a cold
page cache, from which the files are dropped before each pick, and with a warm one.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import on_disk
import peaks
import report
import scale_curve

ROWS_AT_ONCE = 512

MOST_AT_ONCE = 10_000
"""The largest number of tasks among which 128 picks at once, all of one task, are searched."""

PRECISION = 10
"""The number of binary digits to which the simulated shares equal those of the run."""


def simulated(shares: np.ndarray, num_bytes: int, seed: int) -> np.ndarray:
    """Return random bits, `(weights, num_bytes)`, each row with a given share of ones.

    A bit is 1 where a random binary fraction is below the share, which is decided digit by digit for many bits at once.
    """
    rng = np.random.Generator(np.random.SFC64(seed))
    bits = np.empty((len(shares), num_bytes), np.uint8)
    digits = np.rint(shares * 2**PRECISION).astype(np.int64)
    words = -(-num_bytes // 8)
    for first in range(0, len(shares), ROWS_AT_ONCE):
        rows = digits[first : first + ROWS_AT_ONCE, None]
        kept = np.zeros((len(rows), words), np.uint64)
        for digit in range(PRECISION):
            drawn = rng.integers(0, 2**64, kept.shape, np.uint64)
            ones = np.where(rows >> digit & 1, np.uint64(2**64 - 1), np.uint64(0))
            kept = (kept & drawn) | (ones & (kept | drawn))
        bits[first : first + ROWS_AT_ONCE] = kept.view(np.uint8)[:, :num_bytes]
    return bits


def model_among(run: Any, num_tasks: int) -> Any:
    """Return the model of a run with simulated tasks after its inferred."""
    import jax

    from supsup_jax.model import Model

    learned = run.model.with_counts()
    known = learned.num_tasks // 8 * 8  # whole bytes

    def leaf(bank: jax.Array, counts: jax.Array) -> jax.Array:
        shares = (np.asarray(counts).reshape(-1) + 1) / (learned.num_tasks + 2)
        drawn = simulated(shares, num_tasks // 8, seed=len(shares))
        drawn[:, : known // 8] = np.asarray(bank).reshape(len(shares), -1)[:, : known // 8]
        return jax.device_put(drawn.reshape(*bank.shape[:-1], -1))

    bank = jax.tree.map(leaf, learned.bank, learned.counts)
    return Model(net=run.net, method=run.method, num_tasks=num_tasks, weights=learned.weights, bank=bank, stats={})


def images_of(run: Any, folder: Path, tasks: int, images: int) -> np.ndarray:
    """Return normalised test images of the first tasks, `(tasks, images, height, width, channels)`."""
    import jax

    dataset = run.experiment.tasks.load(folder)
    benchmark = run.experiment.tasks.bind(dataset)
    described = benchmark.tasks(dataset, run.experiment.seed, range(tasks))
    rng = np.random.default_rng(0)
    shown = [
        benchmark.samples(
            dataset.test,
            jax.tree.map(lambda leaf, task=task: leaf[task], described),
            rng.permutation(benchmark.test_size)[:images],
            train=False,
        )[0]
        for task in range(tasks)
    ]
    return np.stack(jax.device_get(shown))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    import jax

    started = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - started, result


def measure(arguments: argparse.Namespace, num_tasks: int) -> dict[str, Any]:
    """Return the measurements of one number of tasks."""
    import jax

    import supsup_jax as ss
    from supsup_jax.inference.shortlist import shortlisted
    from supsup_jax.system import backend

    run = ss.restore(arguments.run)
    tested = min(arguments.tested, run.num_tasks // 8 * 8)
    objective = {"H": ss.entropy, "G": ss.superfluous(real=10)}[arguments.objective]
    if arguments.on_disk:
        folder = arguments.on_disk / str(num_tasks)
        if arguments.write:
            on_disk.written(run, num_tasks, folder, simulated)
            return {}
        shown = images_of(run, arguments.data, tested, arguments.images)
        return on_disk.measure(run, shown, folder, objective, arguments)
    bare = model_among(run, num_tasks)
    model = bare.with_counts()
    bank = backend.num_bytes(model.bank)
    shortlist = ss.Shortlist(objective, **{name: getattr(arguments, name) for name in ("shortlist", "share", "margin")})
    searches = {
        "one_shot, counting at each call": (bare, ss.OneShot(objective)),
        "one_shot": (model, ss.OneShot(objective)),
        "shortlist": (model, shortlist),
    }
    if num_tasks <= arguments.most_binary:
        searches["binary"] = (model, ss.Binary(objective))
    rows = []
    shown = images_of(run, arguments.data, tested, 128)
    for at_once, per_pick, repeat in ((1, 1, arguments.images), (1, 128, 1), (128, 1, 1)):
        if at_once > 1:
            if num_tasks > MOST_AT_ONCE:
                continue
            searches.pop("binary", None)
            shortlist = shortlist.for_one_task()
            searches["shortlist"] = model, shortlist
        groups = shown.reshape(tested, -1, at_once * per_pick, *shown.shape[2:])[:, :repeat]
        picks = [(task, group) for task in range(tested) for group in groups[task]]
        seconds: dict[str, list[float]] = {name: [] for name in searches}
        found: dict[str, list[np.ndarray]] = {name: [] for name in searches}
        for number, (_, group) in enumerate([picks[0], *picks]):  # the first call compiles
            for name, (searched, search) in searches.items():
                if name == "binary" and number > 2:
                    continue
                taken, pick = timed(lambda: ss.infer(searched, group, search, per_pick))  # noqa: B023
                if number:
                    seconds[name].append(taken)
                    found[name].append(np.asarray(pick))
        shares = np.concatenate([shortlisted(model, group, shortlist, per_pick).share for _, group in picks])
        for name in searches:
            inferred, tasks = np.array(found[name]), np.array([[task] for task, _ in picks])
            exact = np.array(found["one_shot"])[: len(inferred)]
            reads = {"one_shot": 1.0, "shortlist": float(shares.mean())}.get(name)
            rows.append(
                {
                    "at_once": at_once,
                    "images": per_pick,
                    "search": name,
                    "picks": inferred.size,
                    "seconds": statistics.median(seconds[name]),
                    "longest": max(seconds[name]),
                    "bank_read": reads and reads * bank,
                    "right": float((inferred == tasks[: len(inferred)]).mean()),
                    "as_exact": float((inferred == exact).mean()),
                    "whole_bank": float((shares > 1).mean()) if name == "shortlist" else None,
                }
            )
    jax.clear_caches()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rate = peaks.sum_rate()  # measured last, since its array takes memory
    for row in rows:
        row["floor"] = row["bank_read"] and row["bank_read"] / rate
    sizes = {"bank": bank, "rate": rate, "memory": peak}
    return {"tasks": num_tasks, "learned": run.num_tasks, **sizes, "rows": rows}


def in_child(*arguments: str) -> dict[str, Any]:
    """Run this program in a separate process, and return what it measures."""
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def markdown(results: list[dict[str, Any]]) -> str:
    """Return a table with a row for each number of tasks, images per pick and search."""
    names = [
        "tasks",
        "picks at once",
        "images a pick",
        "search",
        "seconds",
        "longest",
        "read of the bank",
        "floor, seconds",
    ]
    names += ["task found", "as the exact search", "fell back"]
    lines = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    for result in results:
        for row in result["rows"]:
            read = "" if row["bank_read"] is None else f"{row['bank_read'] / 2**20:,.0f} MB"
            back = "" if row["whole_bank"] is None else f"{100 * row['whole_bank']:.1f} %"
            cells = [f"{result['tasks']:,}", str(row.get("at_once", 1)), str(row["images"]), row["search"]]
            cells.append(f"{row['seconds']:.3g}")
            floor = "" if row["floor"] is None else f"{row['floor']:.3g}"
            cells += [f"{row['longest']:.3g}", read, floor, f"{100 * row['right']:.1f} %"]
            cells += [f"{100 * row['as_exact']:.1f} % of {row['picks']}", back]
            lines.append(f"| {' | '.join(cells)} |")
    rates = report.spread([result["rate"] / 1e9 for result in results], ".3g")
    return "\n".join([*lines, f"\nFloor: the bytes read, at {rates} GB/s."])


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw results, or print that matplotlib is missing."""
    if not scale_curve.draw(results, path):
        print(f"{path} is not drawn, because matplotlib is not installed: pip install 'supsup_jax[plots]'")


def main() -> None:
    """Measure each number of tasks in a separate process, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="the folder of a run of SupSup on permuted MNIST")
    parser.add_argument("--draw", type=Path, nargs="+", help="draw these JSON files together instead")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder with MNIST")
    parser.add_argument("--tasks", type=int, nargs="+", default=[2500, 10_000, 100_000], help="numbers of tasks")
    parser.add_argument("--objective", choices=("H", "G"), default="H", help="the objective")
    parser.add_argument("--tested", type=int, default=32, help="tasks of the run whose images are searched")
    parser.add_argument("--images", type=int, default=4, help="images of each task that are searched alone")
    parser.add_argument("--most-binary", type=int, default=0, help="the largest number of tasks for the binary search")
    parser.add_argument("--shortlist", type=int, default=64, help="see Shortlist")
    parser.add_argument("--share", type=float, default=1 / 8, help="see Shortlist")
    parser.add_argument("--margin", type=float, default=6.0, help="see Shortlist")
    parser.add_argument("--on-disk", type=Path, help="folder of banks: search tasks whose masks are on disk")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[1 / 32, 1 / 8], help="with --on-disk: see Shortlist"
    )
    parser.add_argument("--memory", type=int, default=2**30, help="with --on-disk: the limit of a search in bytes")
    parser.add_argument("--output", type=Path, default=Path("scale"), help="the files to write, without suffix")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if (arguments.run is None) == (arguments.draw is None):
        parser.error("give the folder of a run, or --draw and JSON files of earlier calls")
    if arguments.draw:
        draw(
            [result for path in arguments.draw for result in json.loads(path.read_text())],
            arguments.output.with_suffix(".png"),
        )
        return
    if arguments.child:
        print(json.dumps(measure(arguments, arguments.child)))
        return

    results, table = [], on_disk.markdown if arguments.on_disk else markdown
    for num_tasks in arguments.tasks:
        if arguments.on_disk:  # in a separate process, whose memory does not count
            in_child(*sys.argv[1:], "--write", "--child", str(num_tasks - num_tasks % 8))
        results.append(in_child(*sys.argv[1:], "--child", str(num_tasks - num_tasks % 8)))
        arguments.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        arguments.output.with_suffix(".md").write_text(table(results) + "\n")
        for result in results[-1:]:
            print(f"{result['tasks']:,} tasks: peak memory {result['memory'] / 2**20:,.0f} MB", flush=True)
    print(table(results))
    draw(results, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
