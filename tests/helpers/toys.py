"""Small networks, models and data sets that several tests use."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from helpers import adapter
from supsup_jax.data import Dataset, Samples
from supsup_jax.methods import SupSup
from supsup_jax.model import Model
from supsup_jax.networks import Network
from supsup_jax.networks.layers import BatchNorm

abandons_coroutines = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited:RuntimeWarning"
)
"""Orbax abandons a coroutine if an array cannot be read or written, and Python warns when it collects it."""


class ConvNet(nn.Module):
    """A convolution, batch norm with statistics but without parameters, and a dense layer."""

    features: int = 4

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(3, (2, 2), use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train, use_scale=False, use_bias=False)(x)
        return nn.Dense(self.features, use_bias=False)(nn.relu(x).reshape(len(x), -1))


class BatchNormNet(nn.Module):
    """A convolution, the batch norm of this library, and a dense layer."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(3, (2, 2), use_bias=False)(x)
        x = BatchNorm(axis_name=self.axis_name)(x, train)
        return nn.Dense(4, use_bias=False)(nn.relu(x).reshape(len(x), -1))


def model_of(net, weights, bank, num_tasks, stats=None, method=None) -> Model:
    """Return a model with masks, or with adapters of another method; `stats` are stacked along a task axis."""
    method = method or SupSup()
    return Model(net=net, method=method, num_tasks=num_tasks, weights=weights, bank=bank, stats=stats or {})


def batch_norm_net(axis_name=None) -> Network:
    return Network(BatchNormNet(axis_name), input_shape=(5, 5, 1))


def kernel_path(name):
    """Return the path of a kernel of GEMResNet18 in our weights, given the name of its layer in the original."""
    name = re.sub(r"layer(\d)\.(\d)", r"layer\1_\2", name).replace("shortcut.0", "shortcut_conv")
    return (*name.replace("shortcut.1", "shortcut_bn").split("."), "kernel")


def node(tree, path):
    """Return the subtree at a path."""
    for name in path:
        tree = tree[name]
    return tree


def conv_net() -> Network:
    return Network(ConvNet(), input_shape=(5, 5, 1))


def random_masks(weights, tasks, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.integers(0, 2, (tasks, *leaf.shape)).astype(np.float32), weights)


def small_dataset(samples=96, seed=0) -> Dataset:
    """Return a data set of 4 × 4 images whose brightest quarter is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 2 * samples).astype(np.int32)
    images = rng.integers(0, 80, (2 * samples, 4, 4, 1))
    for row, label in zip(images, labels, strict=True):
        row[2 * (label // 2) : 2 * (label // 2) + 2, 2 * (label % 2) : 2 * (label % 2) + 2] += 150
    images = images.astype(np.uint8)
    train, test = Samples(images[:samples], labels[:samples]), Samples(images[samples:], labels[samples:])
    return Dataset(train, test, (0.3,), (0.3,))


def write_small_imagenet(folder: Path, classes: int = 20, train: int = 5, test: int = 3) -> None:
    """Write a small ImageNet below a folder: one colour per class, in images of several shapes."""
    rng = np.random.default_rng(0)
    for number in range(classes):
        colour = rng.integers(0, 256, 3)
        for split, count in (("train", train), ("val", test)):
            place = folder / "imagenet" / split / f"n{number:08d}"
            place.mkdir(parents=True)
            for index in range(count):
                height, width = [(20, 30), (30, 20), (24, 24)][index % 3]
                noisy = np.clip(colour + rng.integers(-20, 21, (height, width, 3)), 0, 255)
                Image.fromarray(noisy.astype(np.uint8)).save(place / f"{index}.JPEG")


HOPSUPSUP = adapter.experiment(
    "hop",
    benchmark="SplitMNIST",
    method="HopSupSup",
    network="BNNet",
    search="recovery",
    optimizer="SGD",
    features=4,
    width=0.02,
    num_tasks=2,
    steps=20,
    batch_size=16,
    test_batch_size=8,
    learning_rate=0.1,
)
"""An experiment that stores the masks of two tasks of `small_dataset` in a Hopfield memory."""
