"""Names of settings: flat names that differ from field names, and names that version 0.1 used.

Records, YAML files and flags name settings by flat names. Each part is named by its kind (`method: SupSup`), and the
fields of the part are separate settings (`features: 100`).
"""

from collections.abc import Mapping
from typing import Any

KINDS = ("tasks", "source", "network", "initializer", "method", "scenario", "search", "objective", "optimizer")
"""Kinds of parts that have a name, in the order in which they are shown."""

_KEYS = {"tasks": "benchmark", "source": "dataset"}
"""Settings that name a part, if they differ from its kind."""

FLAT = {
    ("experiment", "evaluate_at"): "eval_at",
    ("search", "base"): "log_base",
    ("recovery", "learning_rate"): "recovery_learning_rate",
    ("recovery", "momentum"): "recovery_momentum",
    ("recovery", "weight_decay"): "recovery_weight_decay",
    ("mask", "er_scale"): "er_scale",
    ("mask", "density"): "density",
}
"""Flat names that differ from the field name, by kind and field."""

OF_KIND: dict[str, tuple[str, Any]] = {
    "name": ("experiment", str),
    "first_task": ("experiment", int),
    "seed": ("experiment", int),
    "num_tasks": ("tasks", int),
    "image_size": ("source", int),
    "cache_size": ("source", int | None),
    "features": ("network", int),
    "width": ("network", float),
    "affine": ("network", bool),
    "dtype": ("network", str),
    "sync_bn": ("network", bool),
    "random_weights": ("method", bool),
    "fine_tunes": ("method", bool),
    "check_every": ("scenario", int),
    "check_epochs": ("scenario", bool),
    "novelty": ("scenario", float),
    "fewest_masks": ("scenario", int),
    "most_masks": ("scenario", int),
    "test_batch_size": ("scenario", int),
    "images_per_pick": ("scenario", int),
    "images_per_task": ("scenario", int),
    "steps": ("training", int),
    "epochs": ("training", int | None),
    "schedule": ("training", str),
    "warmup_epochs": ("training", int),
    "batch_size": ("training", int),
    "weights_learning_rate": ("training", float),
    "learning_rate": ("optimizer", float),
    "weight_decay": ("optimizer", float),
    "momentum": ("optimizer", float),
    "gamma": ("search", float),
    "through_memory": ("search", bool),
    "attempts": ("search", int),
}
"""Flat names of version 0.1 that equal a field name: kind of the part, and type of the value."""

DEFAULTS = {
    "dataset": "mnist",
    "benchmark": "Permuted",
    "network": "LeNet",
    "initializer": "signed_constant",
    "method": "SupSup",
    "scenario": "GNu",
    "search": "one_shot",
    "objective": "entropy",
    "optimizer": "RMSprop",
    "features": 100,
    "num_tasks": 250,
    "learning_rate": 1e-4,
}
"""Default values of version 0.1."""

_RENAMED: dict[Any, str] = {"PermutedMNIST": "Permuted", "RotatedMNIST": "Rotated"}
"""Names of benchmarks in version 0.1, and their current names."""

OPTIONS = (
    "cluster", "config", "coordinator", "cpus", "data", "gpu_sets", "gpus", "help", "host", "host_timeout", "hosts",
    "learned_in", "log_dir", "memory", "partition", "resume", "seeds", "sparsity", "tasks", "tasks_at_once", "time",
)  # fmt: skip
"""Flags of scripts that are not settings of the experiment; settings never have these names."""

TAKEN = {*FLAT.values(), *_KEYS.values(), *KINDS, *OPTIONS}

LONGER = ("num_tasks", "eval_at")
"""Settings that may change when a run is resumed."""


def key_of(kind: str) -> str:
    """Return the setting that names a part of a kind."""
    return _KEYS.get(kind, kind)


def current(benchmark: str) -> str:
    """Return the current name of a benchmark."""
    return _RENAMED.get(benchmark, benchmark)


def upgraded(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a run of any version recorded, under current names of initializers."""
    values = dict(recorded)
    # Version 0.1 called pytorch_default kaiming_uniform. It recorded all settings, but had no density.
    of_version_0_1 = {"gamma", "novelty"} <= values.keys() and "density" not in values
    if of_version_0_1 and values.get("initializer") == "kaiming_uniform":
        values["initializer"] = "pytorch_default"
    return values


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under current names, converted from those of version 0.1."""
    values = dict(values)
    if values.get("benchmark") == "RotatedMNIST":  # the angles in the paper, independent of the number of tasks
        values.setdefault("degrees", 10)
    if values.get("search") == "recovery":  # its optimizer used settings of the training optimizer
        for name in ("momentum", "weight_decay"):
            if name in values:
                values.setdefault(f"recovery_{name}", values[name])
    if "benchmark" in values:
        values["benchmark"] = current(values["benchmark"])
    return values
