"""Check on a GPU that it computes what a CPU does: masks, inferred tasks, logits, resumed runs, tasks side by side.

Command: python benchmarks/parity.py --output parity
         python benchmarks/parity.py --smallest   (short training, to check that it runs)

Needs no data set: the tasks are permutations of scikit-learn's digits. A separate process computes the same on the CPU,
and the run that it learns is restored here, so that both infer tasks from equal masks. A third process resumes an
interrupted run on the GPU. Without a GPU, the CPU is compared with itself.

Writes OUTPUT.md and OUTPUT.json. Exit status: 0, or 1 if a check failed.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Size:
    """The size of the runs.

    Attributes:
        at_once: number of tasks side by side, between two checkpoints; a run has twice this number of tasks.
        steps: number of updates of a task.
    """

    at_once: int
    steps: int

    @property
    def tasks(self) -> int:
        """Number of tasks of a run."""
        return 2 * self.at_once


FULL, SMALLEST = Size(8, 200), Size(2, 10)
INFERRED = 64  # images whose task is inferred
IMAGES = 8  # images whose logits are compared

# The relative rounding error of one number: float32 rounds to nearest, and hardware may cut numbers to TensorFloat-32.
ROUNDING = {"float32": 2.0**-24, "tensorfloat32": 2.0**-10}

LAYERS = 20
"""Number of layers of GEMResNet18. Each layer adds the relative errors of two rounded factors."""

Check = Callable[[], Iterator[tuple[str, bool, str]]]
"""Yields what is compared, whether it is as expected, and the difference in words."""


def experiment(num_tasks: int, steps: int) -> Any:
    import supsup_jax as ss
    from supsup_jax import data, networks, optimizers, scenarios

    return ss.Experiment(
        name="parity",
        tasks=data.Permuted(data.Digits(), num_tasks=num_tasks),
        network=networks.LeNet(features=100),
        scenario=scenarios.GG(),
        training=ss.Training(steps=steps, batch_size=64, optimizer=optimizers.RMSprop(1e-3)),
    )


def learn(folder: Path, size: Size, alone: bool = False, interrupted: bool = False) -> Any:
    """Learn a run in a folder, or resume it.

    Args:
        folder: the folder of the run.
        size: the size of the run.
        alone: whether to learn one task at a time, and only the first half of the tasks.
        interrupted: whether to stop after the first checkpoint.

    Returns:
        The run; `None` if it was interrupted.
    """
    from supsup_jax.runs import train

    chosen = experiment(size.at_once if alone else size.tasks, size.steps)
    dataset = chosen.tasks.load(Path())
    folder.mkdir(exist_ok=True)
    run = train.opened(chosen, dataset, folder)

    def report(_: Any) -> None:
        if interrupted and run.num_tasks:
            raise KeyboardInterrupt

    try:
        train.train(run, dataset, 1 if alone else size.at_once, report)
    except KeyboardInterrupt:
        return None
    return run


def arrays(run: Any, num_tasks: int) -> list[np.ndarray]:
    """Return the masks of the first tasks of a run, as packed bits."""
    import jax

    masks = [jax.tree.leaves(run.model.adapter(task)) for task in range(num_tasks)]
    return [np.packbits(np.asarray(leaf) > 0) for mask in masks for leaf in mask]


def _normal(rng: np.random.Generator, shape: tuple[int, ...], inputs: int = 2) -> np.ndarray:
    """Return normal random numbers with a variance of 2 / `inputs`, as for the kernels of a layer."""
    return (rng.normal(size=shape) * math.sqrt(2 / inputs)).astype(np.float32)


def computed(folder: Path, size: Size) -> dict[str, np.ndarray]:
    """Return what this process computes for comparison; the keys with a colon have to be equal on every device.

    Args:
        folder: a learned run, the same for all processes.
        size: the size of the run; with `SMALLEST`, a part of the values.
    """
    import jax
    import jax.numpy as jnp

    import supsup_jax as ss
    from supsup_jax import data, masks, networks, training
    from supsup_jax.system import backend

    rng = np.random.default_rng(0)
    shapes = {"wide": (784, 300), "window": (3, 3, 40, 80), "last": (160, 5), "one": (1, 1)}
    scores = {name: _normal(rng, shape) for name, shape in shapes.items()}
    ties = {name: np.round(score) for name, score in scores.items()}  # includes -0.0
    masks_of: dict[str, Any] = {f"top {density:g}": masks.TopK(density) for density in (0.05, 0.5, 1.0)}
    masks_of |= {"threshold": masks.threshold, "Erdős–Rényi": masks.ErdosRenyi(8.0)}

    @jax.jit
    def all_masks(given: dict[str, Any]) -> dict[str, Any]:
        return {f"{mask}, {name}": masks_of[mask](given[name]) for mask in masks_of for name in given}

    found: dict[str, Any] = {"masks:": all_masks({"scores": scores, "scores with ties": ties})}
    run = ss.restore(folder)
    dataset = data.load_digits()
    benchmark = run.experiment.build(dataset).benchmark
    described = benchmark.tasks(dataset, run.experiment.seed, range(size.tasks))
    found["random numbers: permutations"] = described
    found["random numbers: batches"] = training.draw_batches(training.task_key(0, 3), 1000, 1000, 20, 64)
    found["random numbers: base weights"] = networks.LeNet(features=10).init(training.weights_key(0))[0]

    rows = np.arange(INFERRED // size.tasks)
    tasks = [jax.tree.map(lambda leaf, task=task: leaf[task], described) for task in range(size.tasks)]
    images = jnp.concatenate([benchmark.samples(dataset.test, task, rows, False)[0] for task in tasks])
    model, uniform = run.model, jnp.full(size.tasks, 1 / size.tasks)
    used = ss.superfluous(10)
    searches: dict[str, Any] = {"one-shot H": ss.OneShot(ss.entropy), "binary G": ss.Binary(used)}
    if size is FULL:
        searches |= {"one-shot G": ss.OneShot(used), "binary H": ss.Binary(ss.entropy)}
        searches["exhaustive H"] = ss.Exhaustive(ss.entropy)
    # By default a GPU rounds to TensorFloat-32.
    for precision in ("float32", None) if backend.is_accelerator() or size is FULL else ("float32",):
        label = precision or "default precision"
        with jax.default_matmul_precision(precision):
            for name, search in searches.items():
                found[f"picks: {name}, {label}"] = ss.infer(model, images, search)
            found[f"gradients of H, {label}"] = ss.alpha_gradient(model, images, uniform, ss.entropy)
    found["images"] = images[:: INFERRED // IMAGES]

    setting: Any = networks.GEMResNet18(5)
    if size is SMALLEST:
        setting = networks.Network(setting.module.clone(blocks=(1,)), input_shape=setting.input_shape)
    shapes, _ = jax.eval_shape(setting.init, training.weights_key(0))
    weights = jax.tree.map(lambda leaf: _normal(rng, leaf.shape, math.prod(leaf.shape[:-1])), shapes)
    stats = setting.init_stats()
    pictures = _normal(rng, (IMAGES, 32, 32, 3))
    for precision in precisions():
        with jax.default_matmul_precision(precision):
            logits, _ = jax.jit(lambda x: setting.apply(weights, stats, x, train=False))(pictures)
            found[f"GEMResNet18, {precision}"] = logits
    return {
        name + jax.tree_util.keystr(path): np.asarray(leaf)
        for name, tree in found.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def precisions() -> tuple[str, ...]:
    """Return the precisions of products to compare: a CPU has one."""
    from supsup_jax.system import backend

    return tuple(ROUNDING) if backend.is_accelerator() else ("float32",)


@contextmanager
def child(role: str, folder: Path, size: Size, **environment: str) -> Iterator[Callable[[], None]]:
    """Start this program in a role, and give a function that waits until it has ended without an error."""
    command = [sys.executable, __file__, "--role", role, "--folder", str(folder), *["--smallest"] * (size is SMALLEST)]
    with subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True) as process:

        def wait() -> None:
            _, errors = process.communicate()
            if process.returncode:
                raise RuntimeError((errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1])

        try:
            yield wait
        finally:
            process.kill()


def play(role: str, folder: Path, size: Size) -> None:
    """Do the work of a separate process."""
    if role == "cpu":
        learn(folder / "cpu", size)
        np.savez(folder / "cpu.npz", **computed(folder / "cpu", size))  # pyright: ignore
    else:
        learn(folder / "resumed", size)


def equal_values(ours: dict[str, np.ndarray], cpu: dict[str, np.ndarray]) -> Iterator[tuple[str, bool, str]]:
    """Compare the values that are equal on every device, and inferred tasks where rounding cannot change them."""
    kinds = sorted({name.partition(":")[0] for name in ours if ":" in name})
    for kind in kinds:
        for name in sorted(name for name in ours if name.startswith(f"{kind}:")):
            differing = ours[name] != cpu[name]
            if differing.any():
                detail = f"{differing.sum()} of {differing.size} differ"
                gradients = f"gradients of H, {name.rpartition(', ')[2]}"
                if gradients in ours:
                    detail += f"; the gradients of H by {_relative(ours[gradients], cpu[gradients]):.2g}"
                yield name, False, detail
    for kind in kinds:
        names = [name for name in ours if name.startswith(f"{kind}:")]
        same = all(np.array_equal(ours[name], cpu[name]) for name in names)
        yield f"{kind} ({len(names)} arrays)", same, "equal to the CPU's" if same else "see above"


def _relative(values: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest expected value."""
    return float(np.abs(values - expected).max() / np.abs(expected).max())


def logits_within_bounds(
    folder: Path, ours: dict[str, np.ndarray], cpu: dict[str, np.ndarray]
) -> Iterator[tuple[str, bool, str]]:
    """Compare LeNet's logits with float64 and its rounding bounds, and GEMResNet18's with the CPU's."""
    import jax

    import supsup_jax as ss

    model, images = ss.restore(folder).model, cpu["images"]
    for precision in precisions():
        worst = 0.0
        for task in (0, model.num_tasks - 1):
            weights = model.effective_weights(task)
            exact, bound = reference(images, weights, precision)
            with jax.default_matmul_precision(precision):
                logits = np.asarray(model.net.apply(weights, model.stats, jax.device_put(images), train=False)[0])
            worst = max(worst, float((np.abs(logits - exact) / bound).max()))
        yield f"logits of LeNet, {precision}", worst <= 1, f"at most {100 * worst:.2g} % of the rounding bound"
    for precision in precisions():
        difference = _relative(ours[f"GEMResNet18, {precision}"], cpu["GEMResNet18, float32"])
        # The float32 bound allows for sums of up to 1,440 products in a different order.
        allowed = 2 * LAYERS * ROUNDING[precision] * (38 if precision == "float32" else 1)
        detail = f"relative difference {difference:.2g}, allowed {allowed:.2g}"
        yield f"logits of GEMResNet18, {precision}", difference <= allowed, detail


def reference(images: np.ndarray, weights: Any, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of a network of dense layers with ReLU in float64, and the bounds of their rounding errors."""
    x = images.reshape(len(images), -1).astype(np.float64)
    errors = np.zeros_like(x)
    kernels = [np.asarray(weights[name]["kernel"], np.float64) for name in sorted(weights)]
    for number, kernel in enumerate(kernels):
        # Two rounded factors, their product, and a float32 sum in any order.
        relative = 2 * ROUNDING[precision] + (len(kernel) + 1) * ROUNDING["float32"]
        errors = errors @ np.abs(kernel) + 1.01 * relative * ((np.abs(x) + errors) @ np.abs(kernel))
        x = x @ kernel
        x = np.maximum(x, 0) if number < len(kernels) - 1 else x
    return x, errors


def runs(folder: Path, size: Size) -> Iterator[tuple[str, bool, str]]:
    """Compare a resumed run with an uninterrupted one, and tasks learned one at a time with tasks side by side."""
    import supsup_jax as ss

    together = arrays(learn(folder / "together", size), size.tasks)
    learn(folder / "resumed", size, interrupted=True)
    with child("resume", folder, size) as wait:
        wait()
    resumed = arrays(ss.restore(folder / "resumed"), size.tasks)
    same = all(map(np.array_equal, together, resumed))
    yield "a run resumed in a new process", same, _bits(together, resumed)
    alone = arrays(learn(folder / "alone", size, alone=True), size.at_once)
    side_by_side = together[: len(alone)]
    # Products of many tasks may be rounded differently; each update then moves a few scores across the threshold.
    within = _differing(alone, side_by_side) <= 0.01
    yield f"masks of 1 and of {size.at_once} tasks at a time", within, f"{_bits(alone, side_by_side)}; allowed 1 %"


def _differing(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """Return the fraction of bits that differ."""
    count = sum(int(np.bitwise_count(a ^ b).sum()) for a, b in zip(first, second, strict=True))
    return count / (8 * sum(a.size for a in first))


def _bits(first: list[np.ndarray], second: list[np.ndarray]) -> str:
    fraction = _differing(first, second)
    return f"{100 * fraction:.2g} % of the masks' bits differ" if fraction else "equal to the bit"


def checks(folder: Path, size: Size) -> Iterator[tuple[str, bool, str]]:
    """Yield the result of each check; a check that raises an error is a failed one."""
    with child("cpu", folder, size, JAX_PLATFORMS="cpu") as wait:
        yield from _guarded("resumed runs", lambda: runs(folder, size))

        def compared() -> Iterator[tuple[str, bool, str]]:
            wait()
            cpu, ours = dict(np.load(folder / "cpu.npz", allow_pickle=False)), computed(folder / "cpu", size)
            yield from equal_values(ours, cpu)
            yield from logits_within_bounds(folder / "cpu", ours, cpu)

        yield from _guarded("comparison with the CPU", compared)


def _guarded(name: str, check: Check) -> Iterator[tuple[str, bool, str]]:
    try:
        yield from check()
    except Exception as error:  # of any type: the other checks must run
        yield name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def main() -> int:
    """Run all checks, write both files after each, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smallest", action="store_true", help="short training, to check that it runs")
    parser.add_argument("--output", type=Path, default=Path("parity"), help="the files to write, without suffix")
    parser.add_argument("--role", choices=["cpu", "resume"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    # Otherwise the first process on a GPU would take most of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    size = SMALLEST if arguments.smallest else FULL
    if arguments.role:
        play(arguments.role, arguments.folder, size)
        return 0
    from supsup_jax.system import atomic

    folder = Path(tempfile.mkdtemp())
    rows = []
    for name, passed, detail in checks(folder, size):
        rows.append({"check": name, "passed": passed, "detail": detail})
        print(name, "passed" if passed else "FAILED", detail, flush=True)
        atomic.write(arguments.output.with_suffix(".json"), json.dumps(rows, indent=1) + "\n")
        atomic.write(arguments.output.with_suffix(".md"), markdown(rows))
    shutil.rmtree(folder)
    return int(not all(row["passed"] for row in rows))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the results of the checks as a table."""
    lines = ["### The GPU's results and the CPU's\n", "| check | outcome | measured |", "| --- | --- | --- |"]
    lines += [
        f"| {row['check']} | {'passed' if row['passed'] else '**failed**'} | {row['detail'].replace('|', '/')} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
