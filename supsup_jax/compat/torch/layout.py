"""Names of layers and arrays in files of the original implementation, and the layout of the arrays."""

import re
from typing import Any

import jax
import numpy as np

BENCHMARKS = {
    "MNISTPerm": "Permuted",
    "RotatingMNIST": "Rotated",
    "PartitionMNISTV2": "SplitMNIST",
    "RandSplitCIFAR100": "SplitCIFAR100",
    "SplitImageNet": "SplitImageNet",
}


DATASETS = {"SplitCIFAR100": "cifar100", "SplitImageNet": "imagenet", "own": "own"}  # all others: mnist


PARTS = {"Rotated": 36, "SplitImageNet": 100}  # number of tasks that the data set is divided into


# Units at width 1: of the hidden layers of an MLP, and of a ResNet's stem.
UNITS = {"LeNet": (300, 100), "FC1024": (1024, 1024), "BNNet": (2048, 2048), "GEMResNet18": (20,)}
UNITS |= dict.fromkeys(("ResNet18", "ResNet50", "ResNet101"), (64,))


FLAT = ("LeNet", "FC1024", "BNNet")


def layer_of(path: tuple[str, ...], network: str) -> str:
    """Return the original's name of one of our layers."""
    if network in FLAT:
        kind, place = path[0][:-1], int(path[0][-1])
        return f"linear.{place * (3 if network == 'BNNet' else 2) + (kind == 'gain')}"
    name = re.sub(r"layer(\d)_(\d+)", r"layer\1.\2", ".".join(path))
    shortcut, head = ("shortcut", "linear") if network == "GEMResNet18" else ("downsample", "fc")
    return (
        name.replace("shortcut_conv", f"{shortcut}.0").replace("shortcut_bn", f"{shortcut}.1").replace("linear", head)
    )


def with_torch_names(tree: Any, network: str) -> list[tuple[str, str, Any]]:
    """List the leaves of weights, statistics or vectors in order, each with the original's names of layer and array."""
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    named = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        *layer, name = (entry.key for entry in path)
        if name in ("s", "t"):
            layer.pop()
        named.append((layer_of(tuple(layer), network), names.get(name, name), leaf))
    return named


def to_torch(leaf: Any) -> np.ndarray:
    """Convert one of our kernels to the original's layout, (out, in, height, width); vectors are not changed."""
    array = np.asarray(leaf)
    return array if array.ndim < 2 else array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(3, 2, 0, 1)


def torch_shape_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that one of our arrays has in the original."""
    return shape if len(shape) < 2 else (*shape[:-3:-1], *(shape[:-2] or (1, 1)))
