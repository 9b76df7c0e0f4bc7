"""From 10 tasks to 25,000: the cost of a task in learning and saving, restoring, and inference.

Images are random with 8 × 8 pixels, and each task takes 2 updates, so that everything around the updates is measured.
The rows of a case are seconds for 25,000 tasks, extrapolated from runs of different sizes. Equal rows mean a linear
cost.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from compare import Case, Formulation, Row

COUNTS = (2500, 10, 100, 1000, 10000, 25000)
MOST = 25000
AT_ONCE = 100


def make_run(folder: Path, num_tasks: int, side: int = 8) -> Callable[[], object]:
    """Return a function that learns a run of `num_tasks` tasks of LeNet in a folder, which must not exist."""
    from supsup_jax import data, networks, scenarios
    from supsup_jax.data import Dataset, Samples
    from supsup_jax.experiment import Experiment, Training
    from supsup_jax.runs.train import run_experiment

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (256, side, side, 1), dtype=np.uint8)
    split = Samples(images, rng.integers(0, 10, 256).astype(np.int32))
    experiment = Experiment(
        name="scaling",
        tasks=data.Permuted(data.Digits(), num_tasks=num_tasks),
        network=networks.LeNet(features=20),
        scenario=scenarios.GG(),
        training=Training(steps=2, batch_size=32),
    )

    def learn() -> object:
        folder.mkdir()
        return run_experiment(experiment, Dataset(split, split, (0.5,), (0.5,)), folder, AT_ONCE)

    return learn


def learning(num_tasks: int) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        from supsup_jax.system import devices

        devices.use_all_cores()
        make_run(Path(tempfile.mkdtemp()) / "warm", min(num_tasks, AT_ONCE))()

        def call() -> dict[str, float]:
            with tempfile.TemporaryDirectory() as folder:
                make_run(Path(folder) / "run", num_tasks)()
                size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            return {"bytes a task on disk": size / num_tasks}

        return call

    return prepare


def restoring(num_tasks: int) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        import supsup_jax as ss
        from supsup_jax.system import devices

        devices.use_all_cores()
        folder = Path(tempfile.mkdtemp()) / "run"
        make_run(folder, num_tasks)()
        return lambda: ss.restore(folder).num_tasks and None

    return prepare


def inferring(num_tasks: int) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        import jax
        import jax.numpy as jnp

        from supsup_jax import inference, methods, networks
        from supsup_jax.model import Model

        net = networks.LeNet(features=20, input_shape=(8, 8, 1))
        weights, stats = net.init(jax.random.key(0))
        rng = np.random.default_rng(0)
        size = -(-num_tasks // 8)
        bank = jax.tree.map(lambda leaf: jnp.asarray(rng.integers(0, 256, (*leaf.shape, size), np.uint8)), weights)
        image = jnp.ones((1, 8, 8, 1))
        model = Model(net=net, method=methods.SupSup(), num_tasks=num_tasks, weights=weights, bank=bank, stats=stats)
        return lambda: jax.block_until_ready(inference.infer(model, image, inference.OneShot()))

    return prepare


def cases() -> list[Case]:
    """Return a case for each operation that should scale linearly."""
    operations = {"Learning and saving tasks, and evaluating each one given": learning, "Restoring tasks": restoring}
    operations |= {"Inferring the task of one image": inferring}
    return [
        Case(
            name,
            MOST,
            "tasks",
            {
                f"among {count:,} tasks": Formulation(prepare(count), count / MOST, once=prepare is learning)
                for count in COUNTS
            },
        )
        for name, prepare in operations.items()
    ]


def draw(rows: list[Row], path: Path) -> None:
    """Plot the cost of a task against the number of tasks."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for case in cases():
        points = sorted(
            (int(row.name.split()[1].replace(",", "")), float(np.median(row.seconds)), float(np.median(row.memory)))
            for row in rows
            if row.case.name == case.name and not row.missing
        )
        if points:
            counts, seconds, memory = map(np.array, zip(*points, strict=True))
            axes[0].loglog(counts, 1000 * seconds / MOST, marker="o", label=case.name)
            axes[1].semilogx(counts, memory / 2**20, marker="o", label=case.name)
    axes[0].set(xlabel="tasks", ylabel="milliseconds a task")
    axes[1].set(xlabel="tasks", ylabel="peak memory of the process, MB", ylim=(0, None))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
