"""Measure SplitImageNet on this machine: image decoding, random cutouts, and an update of ResNet-50.

Command: python benchmarks/imagenet.py --data data   (without --data, decoding is not measured)
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from supsup_jax import data, masks, methods, networks, optimizers
from supsup_jax.data.augmentation import random_resized_crop
from supsup_jax.data.images import black_frames
from supsup_jax.methods import Method
from supsup_jax.training import Learner, Progress

CACHE_SIZE = 256

# Images of 100 epochs of all tasks together.
TOTAL_IMAGES = 100 * 1_281_167


def seconds(call: Callable[[], object], rounds: int) -> float:
    """Return the median time of some calls, after one call to compile."""
    jax.block_until_ready(call())
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - started)
    return median(times)


def decoding(folder: Path, images: int = 1000) -> float:
    """Return the seconds per image for decoding and reducing images on all cores."""
    train = data.load_imagenet(folder).train
    rows = np.arange(min(images, len(train.labels)))
    return seconds(partial(train.images.frames, rows, CACHE_SIZE), 3) / len(rows)  # pyright: ignore


def cutting(batch: int, size: int) -> float:
    """Return the seconds per image for a random cutout, resized and mirrored."""
    frames = jax.device_put(black_frames(batch, CACHE_SIZE))
    keys = jax.random.split(jax.random.key(0), batch)
    return seconds(partial(jax.jit(random_resized_crop, static_argnums=2), frames, keys, size), 5) / batch


def step(method: Method, batch: int, size: int, precision: str, cuts: bool = False) -> float:
    """Return the seconds per image of an update of ResNet-50.

    Args:
        method: a method with or without masks.
        batch: number of images per update.
        size: height and width of the images.
        precision: "float32", "tf32" (float32 products in TensorFloat-32, on GPUs that support it) or "bfloat16".
        cuts: whether the update includes cutting images out of frames.
    """
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    net = networks.ResNet50(10, input_shape=(size, size, 3), dtype=jnp.dtype(dtype))
    weights, stats = net.init(jax.random.key(0))
    learner = Learner(net, method, optimizers.Adam(1e-3, 0.0))
    start = learner.start(weights, jax.random.key(1))
    images = jax.random.normal(jax.random.key(2), (batch, size, size, 3))
    labels = jnp.arange(batch) % 10
    frames = jax.device_put(black_frames(batch, CACHE_SIZE))
    keys = jax.random.split(jax.random.key(3), batch)
    progress = learner.begin(start, stats)

    @jax.jit
    def update(progress: Progress) -> tuple[Progress, jax.Array]:
        seen = random_resized_crop(frames, keys, size) / 255 if cuts else images
        return learner.update(start, progress, seen, labels)

    with jax.default_matmul_precision("tensorfloat32" if precision == "tf32" else "float32"):
        return seconds(lambda: update(progress), 5) / batch


def selection() -> float:
    """Return the seconds for computing the masks of ResNet-50 from scores."""
    weights, _ = networks.ResNet50(10).init(jax.random.key(0))
    scores = methods.SupSup().init(jax.random.key(1), weights)
    return seconds(partial(jax.jit(masks.ErdosRenyi(8.0)), scores), 5)


def main() -> None:
    """Print a row for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with ImageNet")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--precisions", nargs="+", default=["float32"], choices=["float32", "tf32", "bfloat16"])
    arguments = parser.parse_args()
    batch, size = arguments.batch_size, arguments.image_size
    title = f"ResNet-50, {size} × {size}, batches of {batch}, on {jax.devices()[0].device_kind}"
    table = Table("operation", "images/s", "ms for each image", title=title)

    def row(operation: str, each: float) -> None:
        print(operation, each, flush=True)
        table.add_row(operation, f"{1 / each:,.1f}", f"{1000 * each:,.2f}")

    if arguments.data:
        row(f"decoding, shorter side {CACHE_SIZE}, all cores", decoding(arguments.data))
    row("cutting out, resizing, mirroring", cutting(batch, size))
    masked = methods.SupSup(masks.ErdosRenyi(8.0))
    for precision in arguments.precisions:
        row(f"update without masks, {precision}", step(methods.UpperBound(), batch, size, precision))
        each = step(masked, batch, size, precision)
        row(f"update with masks, {precision}", each)
        row(f"update with masks and cutouts, {precision}", step(masked, batch, size, precision, cuts=True))
        print(f"100 tasks of 100 epochs at that rate: {each * TOTAL_IMAGES / 86400:,.1f} days")
    row("computing the masks, included in an update", selection() / batch)
    console = Console()
    console.width = max(console.width, 100)
    console.print(table)


if __name__ == "__main__":
    main()
