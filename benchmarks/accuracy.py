"""Compare the accuracy and time of SplitCIFAR100's first task in supsup_jax and in PyTorch with layers of equal shapes.

Command: python benchmarks/accuracy.py --data data   (rows of PyTorch require `pip install torch`)
"""

import argparse
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

SCALE = 32.0
CONFIGS = Path(__file__).parents[1] / "experiments/GG/splitcifar100/configs"


def supsup_jax(name: str, data_folder: Path, epochs: int) -> tuple[float, float]:
    """Return the accuracy after the last epoch, and the seconds including compilation."""
    from supsup_jax.runs import composition
    from supsup_jax.runs.settings import load_experiment
    from supsup_jax.runs.train import run_experiment

    experiment = load_experiment(CONFIGS / f"{name}.yaml")
    scale = SCALE if composition.settings_of(experiment).get("er_scale") else None
    experiment = composition.changed(experiment, num_tasks=1, epochs=epochs, seed=0, er_scale=scale)
    dataset = experiment.tasks.load(data_folder)
    with tempfile.TemporaryDirectory() as folder:
        run = run_experiment(experiment, dataset, Path(folder))
    (task,) = run.record.tasks
    return task.accuracy, task.seconds


def pytorch(name: str, data_folder: Path, epochs: int) -> tuple[float, float]:
    """Return the same for PyTorch's layers with channels last, and its initial values, Adam and cosine schedule."""
    import jax
    import numpy as np
    import torch
    from torch.nn import functional
    from torch_resnet import gem_resnet18

    from supsup_jax import data
    from supsup_jax.runs.settings import load_experiment

    experiment = load_experiment(CONFIGS / f"{name}.yaml")
    dataset = data.load("cifar100", data_folder)
    benchmark = data.SplitCIFAR100.of(dataset)
    task = jax.tree.map(lambda leaf: leaf[0], benchmark.tasks(dataset, 0, [0]))

    def arrays(train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        rows = np.arange(benchmark.train_size if train else benchmark.test_size)
        images, labels = benchmark.samples(dataset.train if train else dataset.test, task, rows, train)
        channels_first = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
        return channels_first.contiguous(memory_format=torch.channels_last), torch.from_numpy(np.array(labels)).long()

    (images, labels), (test_images, test_labels) = arrays(True), arrays(False)
    black = benchmark.normalise(jax.numpy.zeros((1, 1, 1, 3), np.uint8))
    torch.manual_seed(0)
    scale = SCALE if experiment.method.has_masks else None
    model = gem_resnet18(5, scale, experiment.network.affine)
    model = model.to(memory_format=torch.channels_last)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, 1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)

    started = time.perf_counter()
    padded = torch.from_numpy(np.array(black)).permute(0, 3, 1, 2).repeat(len(images), 1, 40, 40)
    padded[:, :, 4:-4, 4:-4] = images
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(images)).split(experiment.training.batch_size):
            moves, flips = torch.randint(0, 9, (len(rows), 2)).tolist(), (torch.rand(len(rows)) < 0.5).tolist()
            crops = [
                padded[row, :, top : top + 32, start : start + 32].flip(2)
                if flip
                else padded[row, :, top : top + 32, start : start + 32]
                for row, (top, start), flip in zip(rows.tolist(), moves, flips, strict=True)
            ]
            batch = torch.stack(crops).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            functional.cross_entropy(model(batch), labels[rows]).backward()
            optimizer.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
    return accuracy, time.perf_counter() - started


def main() -> None:
    """Print a row for each method and framework."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder with CIFAR-100")
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    title = f"SplitCIFAR100, task 0, {arguments.epochs} epochs, batches of 128; masks of --sparsity {SCALE:g}"
    table = Table("method", "layers of", "accuracy, last epoch", "seconds", title=title)
    for name in ("rn18-supsup", "rn18-upperbound", "rn18-separate-heads"):
        for run in (supsup_jax, pytorch):
            accuracy, seconds = run(name, arguments.data, arguments.epochs)
            table.add_row(name, run.__name__, f"{100 * accuracy:.1f} %", f"{seconds:.0f}")
            print(name, run.__name__, accuracy, seconds, flush=True)
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)


if __name__ == "__main__":
    main()
