"""Agreement of the search `shortlist` with `one_shot`, on the tasks of a run.

Command: python experiments/GNu/MNISTRotate/supsup.py --data data --steps 100 --eval-at 36 --eval-sample 0.001
         python benchmarks/shortlist.py runs/GNu/MNISTRotate/supsup/seed=1 --data data --shortlist 4

Prints a row of a table: picks, how many equal those of the exact search, how many read the whole bank, the share of the
bank that the others read on average, and how often the exact search is right.
"""

import argparse
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run of a method with masks")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder with the data set")
    parser.add_argument("--shortlist", type=int, default=4, help="number of tasks on the list, below that of the run")
    parser.add_argument("--share", type=float, default=1 / 8, help="share of the bank that is read first")
    parser.add_argument("--objective", choices=("entropy", "superfluous"), help="by default that of the run")
    parser.add_argument("--images", type=int, default=16, help="test images of each task, each of them searched alone")
    arguments = parser.parse_args()

    import jax

    import supsup_jax as ss
    from supsup_jax.inference.shortlist import shortlisted
    from supsup_jax.runs.evaluate import load_dataset

    run = ss.restore(arguments.run)
    dataset = load_dataset(run, arguments.data)
    benchmark = run.experiment.build(dataset).benchmark
    described = benchmark.tasks(dataset, run.experiment.seed, range(run.num_tasks))
    exact = run.inference("one_shot", arguments.objective)
    search = ss.Shortlist(exact.objective, shortlist=arguments.shortlist, share=arguments.share)
    model = run.model_for(exact)
    same, right, shares = [], [], []
    for task in range(run.num_tasks):
        description = jax.tree.map(lambda leaf, task=task: leaf[task], described)
        rows = np.arange(arguments.images) * (int(benchmark.size(description, train=False)) // arguments.images)
        images, _ = benchmark.samples(dataset.test, description, rows, train=False)
        found, picks = shortlisted(model, images, search), np.asarray(ss.infer(model, images, exact))
        same += (np.asarray(found.scores.argmin(1)) == picks).tolist()
        right += (picks == task).tolist()
        shares += np.asarray(found.share).tolist()
    whole = np.array(shares) > 1
    read = f"{np.array(shares)[~whole].mean():.3f}" if not whole.all() else "-"
    name = f"{run.experiment.name}, {run.num_tasks} tasks"
    print(f"| {name} | {len(same)} | {sum(same)} | {whole.sum()} | {read} | {np.mean(right):.3f} |")


if __name__ == "__main__":
    main()
