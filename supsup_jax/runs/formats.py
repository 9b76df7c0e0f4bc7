"""Names of settings: the one table of flat names that differ from those of fields, and what version 0.1 called them.

Settings are recorded, written in YAML and given as flags by flat names: each part is named by its kind
(`method: SupSup`), and its fields follow as settings of their own (`features: 100`).
"""

from collections.abc import Mapping
from typing import Any

KINDS = ("tasks", "source", "network", "initializer", "method", "scenario", "search", "objective", "optimizer")
"""Kinds of parts that have a name, in the order in which they are shown."""

_KEYS = {"tasks": "benchmark", "source": "dataset"}
"""The settings that name parts, where they are not called as the kind."""

FLAT = {
    ("experiment", "evaluate_at"): "eval_at",
    ("search", "base"): "log_base",
    ("recovery", "learning_rate"): "recovery_learning_rate",
    ("recovery", "momentum"): "recovery_momentum",
    ("recovery", "weight_decay"): "recovery_weight_decay",
    ("mask", "er_scale"): "er_scale",
    ("mask", "density"): "density",
}
"""The flat names of fields, by the kind of their part."""

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
"""Flat names of version 0.1 that are those of a field: the kind of its part, and its type."""

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
"""Values of version 0.1 of settings that are not given."""

_RENAMED: dict[Any, str] = {"PermutedMNIST": "Permuted", "RotatedMNIST": "Rotated"}
"""Names of benchmarks that version 0.1 had, for any data set."""

OPTIONS = (
    "cluster", "config", "coordinator", "cpus", "data", "gpu_sets", "gpus", "help", "host", "host_timeout", "hosts",
    "log_dir", "memory", "partition", "resume", "seeds", "sparsity", "tasks", "tasks_at_once", "time",
)  # fmt: skip
"""The flags that a script has beside the settings of its experiment; no setting is called like one of them."""

TAKEN = {*FLAT.values(), *_KEYS.values(), *KINDS, *OPTIONS}

LONGER = ("num_tasks", "eval_at")
"""Settings that may differ in a run that is resumed."""


def key_of(kind: str) -> str:
    """The setting that names a part of a kind."""
    return _KEYS.get(kind, kind)


def current(benchmark: str) -> str:
    """The name of a benchmark in this version."""
    return _RENAMED.get(benchmark, benchmark)


def upgraded(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run of any version recorded, as this version calls them."""
    values = dict(recorded)
    # What version 0.1 called kaiming_uniform is pytorch_default now. It recorded all settings, but had no density.
    of_version_0_1 = {"gamma", "novelty"} <= values.keys() and "density" not in values
    if of_version_0_1 and values.get("initializer") == "kaiming_uniform":
        values["initializer"] = "pytorch_default"
    return values


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under the names of this version, where those of version 0.1 differ."""
    values = dict(values)
    if values.get("benchmark") == "RotatedMNIST":  # the paper's angles, whatever the number of tasks
        values.setdefault("degrees", 10)
    if values.get("search") == "recovery":  # its optimizer had settings of the training's
        for name in ("momentum", "weight_decay"):
            if name in values:
                values.setdefault(f"recovery_{name}", values[name])
    if "benchmark" in values:
        values["benchmark"] = current(values["benchmark"])
    return values
