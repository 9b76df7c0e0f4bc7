"""Network, method, benchmark and settings of a file of the original implementation."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from supsup_jax import masks
from supsup_jax.compat.torch.layout import (
    BENCHMARKS,
    DATASETS,
    FLAT,
    PARTS,
    UNITS,
    layer_of,
    torch_shape_of,
    with_torch_names,
)
from supsup_jax.compat.torch.reading import File
from supsup_jax.data import Inputs
from supsup_jax.data.arrays import NORMALISATION
from supsup_jax.errors import UserError
from supsup_jax.runs import formats
from supsup_jax.runs.settings import checked

# Fields of an experiment by the names of the original's arguments.
_RENAMED = {"wd": "weight_decay", "lr": "learning_rate", "train_weight_lr": "weights_learning_rate"}
_RENAMED |= {"iter_lim": "steps", "data_to_repeat": "images_per_pick"}


_FIELDS = _RENAMED | {name: name for name in ("seed", "batch_size", "test_batch_size", "momentum", "gamma")}


class Leaf(NamedTuple):
    """A leaf of the weights.

    Attributes:
        layer: name of its layer in the original.
        name: name of its array in the original.
        torch_shape: shape in the original.
        shape: shape here.
        kind: what an adapter stores for it: "mask", "gain", "s" (vectors), "contexts" (a rotation), "own" (all its
            weights) or "shared" (nothing).
        density: fraction of weights that its masks keep; `None` if they keep scores of at least 0.
    """

    layer: str
    name: str
    torch_shape: tuple[int, ...]
    shape: tuple[int, ...]
    kind: str
    density: float | None

    def to_jax(self, array: np.ndarray) -> np.ndarray:
        """Convert an array from the original's layout to (in, out) or (height, width, in, out) for kernels."""
        return array.transpose(2, 3, 1, 0).reshape(self.shape) if array.ndim > 1 else array


def architecture_of(file: File, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the network as fields of an experiment: the settings, and defaults from the tensors."""
    tensors = file.tensors
    norm = "linear.3.weight" in tensors
    hidden, head = ["linear.0", "linear.3" if norm else "linear.2"], "linear.6" if norm else "linear.4"
    if "linear.0.weight" in tensors:
        units = [len(file.array(f"{layer}.weight")) for layer in hidden]
        network = "BNNet" if norm else "FC1024" if units[0] == units[1] else "LeNet"
    else:
        units, head = [len(file.array("conv1.weight"))], "linear" if "linear.weight" in tensors else "fc"
        deep = {6: "ResNet50", 23: "ResNet101"}
        blocks = sum(bool(re.fullmatch(r"layer3\.\d+\.conv3\.weight", name)) for name in tensors)
        network = "GEMResNet18" if head == "linear" else deep.get(blocks, "ResNet18")
    network = settings.get("network", network)
    found = {
        "network": network,
        "features": len(file.array(f"{head}.weight")),
        "width": _width(UNITS.get(network, (1,)), units, file.args.get("width_mult")),
        "affine": "bn1.weight" in tensors,
    }
    return {name: settings.get(name, value) for name, value in found.items()}


def _width(bases: tuple[int, ...], units: list[int], argument: float | None) -> float:
    """Return the width with these numbers of units, given the numbers at width 1 and the original's argument."""
    low = max(unit / base for unit, base in zip(units, bases, strict=False))
    high = min((unit + 1) / base for unit, base in zip(units, bases, strict=False))
    for width in (argument or low, low, (low + high) / 2):
        if all(int(base * width) == unit for unit, base in zip(units, bases, strict=False)):
            return float(width)
    return low  # the shapes will not fit; reading the arrays will raise


def inputs_of(file: File, architecture: dict[str, Any], settings: dict[str, Any]) -> Inputs:
    """Return the network's inputs, which depend on the kind of network and the benchmark."""
    if "inputs" in file.exported:
        return Inputs.from_json(file.exported["inputs"])
    shapes = {"GEMResNet18": ("cifar100", (32, 32, 3))} | dict.fromkeys(FLAT, ("mnist", (28, 28, 1)))
    size = settings.get("image_size", 224)
    dataset, shape = shapes.get(architecture["network"], ("imagenet", (size, size, 3)))
    features = architecture["features"]
    num_classes = {"own": min(features, file.args.get("real_neurons", features)), "SplitCIFAR100": 5}
    classes = num_classes.get(_benchmark(file, settings), 10)
    if features < classes:
        raise UserError(f"{file.path} has {features} outputs for {classes} classes; give a different benchmark=...")
    mean, std = NORMALISATION[dataset]
    return Inputs(shape, mean, std, classes)


def _benchmark(file: File, settings: dict[str, Any]) -> str:
    """Return the name of the benchmark, from the settings or the file.

    Raises:
        UserError: if neither has it, or this package has no such benchmark.
    """
    if "benchmark" in settings:
        return formats.current(settings["benchmark"])
    if "experiment" in file.exported:
        return formats.current(file.exported["experiment"]["benchmark"])
    name, tasks = file.args.get("set"), file.args.get("num_tasks")
    benchmark = BENCHMARKS.get(name or "")
    if benchmark is None or tasks not in (None, PARTS.get(benchmark, tasks)):
        problem = f"has {tasks} tasks of {name}, an unknown benchmark" if name else "does not name its benchmark"
        known = ", ".join(BENCHMARKS.values())
        raise UserError(f"{file.path} {problem}; give benchmark={known}, or own for other images")
    return benchmark


def numbers_of(file: File, settings: dict[str, Any]) -> list[int]:
    """Return the numbers of the learned tasks.

    Raises:
        UserError: if `num_tasks` in the settings is greater than their number, or is missing although the tasks were
            discovered (NNs).
    """
    listed = (re.search(r"\.(?:scores|s|contexts|bns)\.(\d+)(?:\.|$)", name) for name in file.tensors)
    wanted = settings.get("num_tasks")
    count = max((int(found[1]) + 1 for found in listed if found), default=file.args.get("num_tasks", wanted or 1))
    if (alone := file.args.get("task_eval")) is not None:
        numbers = [alone]
    else:
        counts = (tensor for name, tensor in file.tensors.items() if name.split(".")[-1] == "num_tasks_learned")
        if wanted is None and "nns" in file.args.get("trainer", ""):
            raise UserError(
                f"{file.path} does not store how many of its {count} masks were learned; give num_tasks=..."
            )
        numbers = list(range(min(count, int(next(counts, count)))))
    if wanted is not None and wanted > len(numbers):
        raise UserError(f"{file.path} has {len(numbers)} learned tasks; give at most num_tasks={len(numbers)}")
    return numbers[:wanted]


def leaves_of(
    file: File, shapes: Any, head: str, network: str, settings: dict[str, Any]
) -> tuple[dict[str, float | None], list[Leaf]]:
    """Return the fields of the experiment that determine which scores a mask keeps, and the leaves of the weights.

    Raises:
        UserError: if the file has weights that the network does not have.
    """
    named = with_torch_names(shapes, network)
    if unknown := {name for name in file.tensors if name.endswith((".weight", ".bias"))} - {
        f"{layer}.{name}" for layer, name, _ in named
    }:
        raise UserError(f"{file.path} has {min(unknown)}, which {network} does not have; give network=...")
    kinds = _kinds(file, named, layer_of((head,), network))
    scale, density = _rule(file, network, settings) if "mask" in kinds else (None, None)
    densities = [density] * len(named) if scale is None else jax.tree.leaves(masks.erdos_renyi(shapes, scale))
    return {"er_scale": scale, "density": density}, [
        Leaf(layer, name, torch_shape_of(leaf.shape), leaf.shape, kind, density)
        for (layer, name, leaf), kind, density in zip(named, kinds, densities, strict=True)
    ]


def _kinds(file: File, named: list[tuple[str, str, Any]], head: str) -> list[str]:
    """Return the kind of each leaf (see `Leaf`)."""
    kernels = [layer for layer, _, leaf in named if len(leaf.shape) > 1]
    scored = [layer for layer in kernels if file.has(layer, "scores")]
    everywhere = file.args.get("conv_type") == "IndividualHeads"
    heads = everywhere or file.args.get("individual_heads", False) or len(scored) == 1

    def kind(layer: str) -> str:
        if layer not in kernels:
            return "gain" if file.has(layer, "scores") else "shared"
        for array in ("contexts", "s"):
            if file.has(layer, array):
                return array
        if layer not in scored:
            return "shared"
        return "own" if heads and (everywhere or layer == head) else "mask"

    return [kind(layer) for layer, _, _ in named]


def _rule(file: File, network: str, settings: dict[str, Any]) -> tuple[float | None, float | None]:
    """Return how scores become masks: `(er_scale, None)`, `(None, density)`, or `(None, None)` for scores >= 0."""
    if settings.keys() & {"er_scale", "density"}:
        return settings.get("er_scale"), settings.get("density")
    convolution = file.args.get("conv_type")
    if convolution is None and network not in FLAT:
        raise UserError(
            f"{file.path} does not store the density of masks; give er_scale=... (the --sparsity) or density=..."
        )
    if convolution not in ("MaskConv", "MultitaskMaskConv"):
        return None, None
    sparsity = float(file.args["sparsity"])
    if not 0 < sparsity < np.inf:
        raise ValueError(f"a sparsity of {sparsity}")
    return (sparsity, None) if file.args.get("er_sparsity") else (None, sparsity)


def method_of(file: File, leaves: list[Leaf], head: str, settings: dict[str, Any]) -> str:
    """Return the method of a file.

    Raises:
        UserError: if the settings have a method that does not fit the file.
    """
    kinds = {leaf.kind for leaf in leaves if len(leaf.shape) > 1}
    alone = "task_eval" in file.args
    if any(leaf.kind == "gain" for leaf in leaves):
        found = "HopSupSup"
    elif kinds == {"mask"}:
        found = "Transfer" if file.args.get("trainer") == "reinit" and not alone else "SupSup"
    elif alone:
        found = "UpperBound"
    elif kinds == {"shared", "own"}:
        found = "SeparateHeads"
    else:
        found = "BatchE" if kinds == {"s"} else "LowerBound" if kinds == {"shared"} else "UpperBound"
    masked = {"SupSup": ("Transfer", "UpperBound"), "Transfer": ("SupSup", "UpperBound"), "HopSupSup": ()}
    possible = (found, *masked.get(found, ("UpperBound",)))
    given = settings.get("method", found)
    if given not in possible:
        raise UserError(f"{file.path}: method {given} does not fit; leave method out, or give {' or '.join(possible)}")
    return given


def settings_of(file: File, method: str, numbers: list[int], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the experiment from the file; the settings replace them."""
    args, benchmark = file.args, _benchmark(file, settings)
    zero = ("weight_decay", "momentum", "seed")
    numbered = {field: args[name] for name, field in _FIELDS.items() if isinstance(args.get(name), int | float)}
    stored: dict[str, Any] = {field: value for field, value in numbered.items() if value > 0 or field in zero}
    if "experiment" in file.exported:
        stored = file.exported["experiment"] | (
            {"scenario": "GNs"} if file.exported["experiment"]["scenario"] == "NNs" else {}
        )
    elif args:
        epochs, adaptor, alone = args.get("epochs", 0), args.get("adaptor", "gt"), "task_eval" in args
        if "steps" not in stored and epochs > 0:
            stored["epochs"] = epochs
        constant = args.get("no_scheduler") or args.get("lr_policy") == "constant_lr"
        stored["schedule"] = "constant" if constant else "cosine"
        stored["warmup_epochs"] = args.get("warmup_length", 0) if alone and not constant else 0
        stored["optimizer"] = {"adam": "Adam", "rmsprop": "RMSprop"}.get(args.get("optimizer", ""), "SGD")
        stored["images_per_pick"] = min(stored.get("images_per_pick", 1), stored.get("test_batch_size", 128))
        given = adaptor == "gt" or alone
        stored["scenario"] = "GG" if given else "GNu" if args.get("unshared_labels") else "GNs"
        stored["search"] = "binary" if "binary" in adaptor else "one_shot"
        stored["objective"] = "superfluous" if "_g_" in adaptor else "maximum" if "_max_" in adaptor else "entropy"
        if method in ("BatchE", "SeparateHeads"):
            stored["random_weights"] = args.get("train_weight_tasks") == 0
        stored["first_task"] = numbers[0]
    else:
        stored["scenario"] = "GG"
    if method == "LowerBound" or benchmark == "SplitImageNet":
        stored["scenario"] = "GG"
    if method == "HopSupSup":
        stored |= {"scenario": "GNu", "search": "recovery"}
    elif method not in ("SupSup", "Transfer") and stored["scenario"] != "GG":
        stored["search"] = "exhaustive"
    name = Path(str(args.get("name", file.path.stem))).name
    stored = (
        {"dataset": DATASETS.get(benchmark, "mnist")} | stored | {"name": f"imported/{name}", "benchmark": benchmark}
    )
    plain = {name: value for name, value in stored.items() if name not in ("er_scale", "density")}
    fixed = {"method": method, "num_tasks": len(numbers), "initializer": "stored"}
    if benchmark == "Rotated":
        fixed["degrees"] = 10
    return checked(plain, file.path) | settings | fixed
