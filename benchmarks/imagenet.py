"""SplitImageNet on this machine: images decoded a second, the cost of cutting out of them, and of a ResNet-50 step.

Command: python benchmarks/imagenet.py --data data   (without --data the rows of decoding are left out)
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
from supsup_jax.training import Learner

CACHE_SIZE = 256


def seconds(call: Callable[[], object], rounds: int) -> float:
    """The median of some calls, after one to compile."""
    jax.block_until_ready(call())
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - started)
    return median(times)


def decoding(folder: Path, images: int = 1000) -> float:
    """Seconds for an image, decoded and reduced on all cores."""
    train = data.load_imagenet(folder).train
    rows = np.arange(min(images, len(train.labels)))
    return seconds(partial(train.images.frames, rows, CACHE_SIZE), 3) / len(rows)  # pyright: ignore


def cutting(batch: int, size: int) -> float:
    """Seconds for an image: a random cutout, resized and mirrored."""
    frames = jax.device_put(black_frames(batch, CACHE_SIZE))
    keys = jax.random.split(jax.random.key(0), batch)
    return seconds(partial(jax.jit(random_resized_crop, static_argnums=2), frames, keys, size), 5) / batch


def step(method: Method, batch: int, size: int, dtype: str) -> float:
    """Seconds for an image of an update of ResNet-50."""
    net = networks.ResNet50(10, input_shape=(size, size, 3), dtype=jnp.dtype(dtype))
    weights, stats = net.init(jax.random.key(0))
    learner = Learner(net, method, optimizers.Adam(1e-3, 0.0))
    start = learner.start(weights, jax.random.key(1))
    images = jax.random.normal(jax.random.key(2), (batch, size, size, 3))
    labels = jnp.arange(batch) % 10
    update = jax.jit(learner.update)
    progress = learner.begin(start, stats)
    return seconds(lambda: update(start, progress, images, labels), 5) / batch


def selection() -> float:
    """Seconds for the masks of ResNet-50 from scores."""
    weights, _ = networks.ResNet50(10).init(jax.random.key(0))
    return seconds(partial(jax.jit(masks.ErdosRenyi(8.0)), weights), 5)


def main() -> None:
    """Prints a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with ImageNet")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    batch, size = arguments.batch_size, arguments.image_size
    title = f"ResNet-50, {size} × {size}, batches of {batch}, on {jax.devices()[0].device_kind}"
    table = Table("what", "images/s", "ms for each image", title=title)

    def row(what: str, each: float) -> None:
        print(what, each, flush=True)
        table.add_row(what, f"{1 / each:,.1f}", f"{1000 * each:,.2f}")

    if arguments.data:
        row(f"decoding, shorter side {CACHE_SIZE}, all cores", decoding(arguments.data))
    row("cutting out, resizing, mirroring", cutting(batch, size))
    for dtype in arguments.dtypes:
        row(f"update with masks, {dtype}", step(methods.SupSup(masks.ErdosRenyi(8.0)), batch, size, dtype))
        row(f"update without masks, {dtype}", step(methods.UpperBound(), batch, size, dtype))
    row("of it selecting the masks", selection() / batch)
    console = Console()
    console.width = max(console.width, 100)
    console.print(table)


if __name__ == "__main__":
    main()
