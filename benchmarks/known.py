"""Measure task inference: right picks, the reliability of the confidence, and the detection of unlearned tasks.

A network learns some tasks of a benchmark. Scores of picks of 1, 8 or 128 random test images of one task give: the
share of correctly inferred tasks; the expected calibration error before and after a temperature is fitted on other test
images; and the AUROC of telling picks of the benchmark's other tasks, which were not learned, from picks of the learned
ones. Rows are means over tasks.

Command: python benchmarks/known.py --data data
         python benchmarks/known.py --data data --only split_cifar10
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import supsup_jax as ss
from supsup_jax import data, networks, optimizers, scenarios
from supsup_jax.inference.confidence import auroc, confidence, fit_temperature, novelty, reliability
from supsup_jax.runs.prediction import picks_and_scores
from supsup_jax.runs.train import run_experiment

SEARCHES = {
    "one-shot, H": ss.OneShot(ss.entropy),
    "one-shot, G": ss.OneShot(ss.superfluous()),
    "exhaustive, H": ss.Exhaustive(ss.entropy),
    "exhaustive, G": ss.Exhaustive(ss.superfluous()),
}
PICKS = (1, 8, 128)


class Case(NamedTuple):
    """A benchmark: its family, and the numbers of learned and of other tasks."""

    family: Any
    learned: int
    others: int
    learning_rate: float = 1e-4


CASES = {
    "permuted_mnist": Case(lambda count: data.Permuted(data.MNIST(), num_tasks=count), 10, 10),
    "split_mnist": Case(lambda count: data.Split(data.MNIST(), 2, num_tasks=count), 3, 2),
    "split_cifar10": Case(lambda count: data.Split(data.CIFAR10(), 2, num_tasks=count), 3, 2),
    "split_cifar100": Case(lambda count: data.Split(data.CIFAR100(), 5, num_tasks=count), 10, 10),
}


def measured(name: str, arguments: argparse.Namespace, seed: int) -> dict[tuple[str, int], list[float]]:
    """Return share of right picks, calibration error before and after, and AUROC, by search and images per pick."""
    case, start = CASES[name], time.perf_counter()
    family = case.family(case.learned)
    dataset = family.load(arguments.data)
    benchmark = family.bind(dataset)
    experiment = ss.Experiment(
        name="known",
        tasks=family,
        network=networks.LeNet(features=100),
        scenario=scenarios.GG(),
        training=ss.Training(steps=arguments.steps, optimizer=optimizers.RMSprop(case.learning_rate)),
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = run_experiment(experiment, dataset, Path(folder))
    given = 100 * np.mean(run.record.evaluations[-1].given)
    print(f"{name}, seed {seed}: {case.learned} tasks, accuracy {given:.1f} % with the task given", flush=True)
    described = benchmark.tasks(dataset, seed, range(case.learned + case.others))
    infer = jax.jit(picks_and_scores, static_argnames=("search", "images_per_pick"))
    random = np.random.default_rng(seed)

    def scores(search: ss.OneShot, task: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return inferred tasks and scores of picks; `rows` has the rows of each pick's images."""
        description = jax.tree.map(lambda leaf: leaf[task], described)
        images, _ = benchmark.samples(dataset.test, description, rows.reshape(-1), train=False)
        return jax.device_get(infer(run.model, search, images, rows.shape[1]))

    found = {}
    for title, search in SEARCHES.items():
        how = search.for_classes(benchmark.num_classes)
        for images in PICKS:
            count = arguments.picks if images == 1 else max(32, arguments.picks // images)
            fitted, tested, unknown = [], [], []
            for task in range(case.learned + case.others):
                size = int(benchmark.size(jax.tree.map(lambda leaf, task=task: leaf[task], described), train=False))
                halves = np.array_split(random.permutation(size), 2)
                drawn = [
                    np.stack([random.choice(half, images, replace=False) for _ in range(count)]) for half in halves
                ]
                if task >= case.learned:
                    unknown.append(scores(how, task, drawn[1]))
                    continue
                for where, rows in zip((fitted, tested), drawn, strict=True):
                    where.append((*scores(how, task, rows), np.full(count, task)))
            _, of_fitted, truth_of_fitted = map(np.concatenate, zip(*fitted, strict=True))
            picks, known, truth = map(np.concatenate, zip(*tested, strict=True))
            picks_of_unknown, of_unknown = map(np.concatenate, zip(*unknown, strict=True))
            temperature = fit_temperature(of_fitted, truth_of_fitted)
            errors = [reliability(confidence(known, picks, at), picks == truth).error for at in (1.0, temperature)]
            novelties = [
                novelty(scores, picked, temperature, search.scores_are_values)
                for scores, picked in ((known, picks), (of_unknown, picks_of_unknown))
            ]
            area = auroc(*novelties)
            found[title, images] = [float(np.mean(picks == truth)), *errors, area]
            print(f"    {title}, {images} images: {np.round(found[title, images], 3).tolist()}", flush=True)
    print(f"    {time.perf_counter() - start:.0f} s", flush=True)
    return found


def main() -> None:
    """Print a table in Markdown for each benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder with data sets")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="benchmarks")
    parser.add_argument("--steps", type=int, default=300, help="updates of 128 images per task")
    parser.add_argument("--picks", type=int, default=256, help="picks of one image per task, at most half its images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    for name in arguments.only:
        by_seed = [measured(name, arguments, seed) for seed in arguments.seeds]
        print(f"\n{name}\n\n| search | images | found, % | ECE at temperature 1 | ECE, fitted | AUROC |")
        print("| --- | --- | --- | --- | --- | --- |")
        for key in by_seed[0]:
            share, before, after, area = np.mean([found[key] for found in by_seed], axis=0)
            low, high = (100 * edge([found[key][0] for found in by_seed]) for edge in (min, max))
            shares = f"{100 * share:.0f} ({low:.0f} to {high:.0f})"
            print(f"| {key[0]} | {key[1]} | {shares} | {before:.2f} | {after:.2f} | {area:.2f} |")
        print()


if __name__ == "__main__":
    main()
