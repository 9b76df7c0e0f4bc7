"""Task inference on pairs of MNIST's digits: the share of right picks of each search, with 1 to 128 images per pick.

Command: python benchmarks/splits.py --data data
         python benchmarks/splits.py --data data --method BatchE --learning-rate 1e-2 --features 10
         python benchmarks/splits.py --data data --permuted   (orders of the pixels instead of pairs of digits)
"""

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import supsup_jax as ss
from supsup_jax import data, methods, networks, optimizers, scenarios
from supsup_jax.runs.train import run_experiment

SEARCHES = {
    "one-shot": ss.OneShot,
    "binary": ss.Binary,
    "descent": ss.inference.Descent,
    "exhaustive": ss.Exhaustive,
}
OBJECTIVES = {"H": ss.entropy, "G": ss.superfluous()}
PICKS = (1, 8, 128)


def right_shares(arguments: argparse.Namespace, seed: int) -> dict[tuple[str, str], list[float]]:
    """Return the shares of right picks for each number of images per pick, by search and objective."""
    family = (
        data.Permuted(data.MNIST(), num_tasks=5) if arguments.permuted else data.Split(data.MNIST(), 2, num_tasks=5)
    )
    experiment = ss.Experiment(
        name="splits",
        tasks=family,
        network=networks.LeNet(features=arguments.features),
        method=getattr(methods, arguments.method)(),
        scenario=scenarios.GG(),
        training=ss.Training(steps=arguments.steps, optimizer=optimizers.RMSprop(arguments.learning_rate)),
        seed=seed,
    )
    dataset = family.load(arguments.data)
    benchmark = family.bind(dataset)
    with tempfile.TemporaryDirectory() as folder:
        run = run_experiment(experiment, dataset, Path(folder))
    given = 100 * np.mean(run.record.evaluations[-1].given)
    print(f"seed {seed}: accuracy {given:.2f} % with the task given", flush=True)

    tasks = benchmark.tasks(dataset, seed, range(run.num_tasks))
    rows = np.random.default_rng(0).permutation(1800)[: arguments.images]  # every task has at least 1,800 test images
    shown = [
        benchmark.samples(dataset.test, jax.tree.map(lambda leaf, task=task: leaf[task], tasks), rows, train=False)[0]
        for task in range(run.num_tasks)
    ]
    shares = {}
    for name, search in SEARCHES.items():
        for letter, objective in OBJECTIVES.items():
            how = search(objective).for_classes(benchmark.num_classes)
            if not how.serves(run.method) or (letter == "G" and arguments.features == benchmark.num_classes):
                continue
            right = [
                [float(np.mean(ss.infer(run.model, images, how, pick) == task)) for task, images in enumerate(shown)]
                for pick in PICKS
            ]
            shares[name, letter] = np.mean(right, axis=1).tolist()
            print(f"    {name}, {letter}: {np.round(100 * np.array(right), 1).tolist()}", flush=True)
    return shares


def main() -> None:
    """Print a row for each search and objective."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder with MNIST")
    parser.add_argument("--method", default="SupSup", help="SupSup, BatchE, or any method whose tasks can be inferred")
    parser.add_argument(
        "--features", type=int, default=100, help="outputs; all outputs but the classes are superfluous"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of RMSprop; 1e-2 is right for BatchE")
    parser.add_argument("--steps", type=int, default=300, help="updates of 128 images per task")
    parser.add_argument(
        "--images", type=int, default=384, help="test images per task: a multiple of 128, at most 1,792"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--permuted", action="store_true", help="orders of the pixels instead of pairs of digits")
    arguments = parser.parse_args()
    shares_by_seed = [right_shares(arguments, seed) for seed in arguments.seeds]
    title = f"5 tasks, LeNet with {arguments.features} outputs, {arguments.method}: task found, in % of picks"
    table = Table("search", "objective", *(f"{pick} images a pick" for pick in PICKS), title=title)
    for search, letter in shares_by_seed[0]:
        values = 100 * np.array([shares[search, letter] for shares in shares_by_seed])
        table.add_row(
            search,
            letter,
            *(
                f"{mean:.0f} ({lowest:.0f} to {highest:.0f})"
                for mean, lowest, highest in zip(values.mean(0), values.min(0), values.max(0), strict=True)
            ),
        )
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)


if __name__ == "__main__":
    main()
