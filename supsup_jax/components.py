"""Registers the built-in parts of experiments under their names."""

from functools import cache

from supsup_jax import data, inference, methods, networks, optimizers, scenarios
from supsup_jax.data.user_tasks import UserArrays, UserTasks
from supsup_jax.inference.recovery import Recovery
from supsup_jax.networks import INITIALIZERS, CustomNetwork, signed_constant
from supsup_jax.registry import register


def stored(*arguments: object) -> object:
    """Initialize weights of imported runs: only the shapes are used, since the weights come from checkpoints."""
    return signed_constant(*arguments)  # pyright: ignore[reportArgumentType]


@cache
def register_built_in() -> None:
    """Register all built-in parts, once."""
    for name, source in data.SOURCES.items():
        register(source, name=name)
    for part in (data.TFDS, data.ImageFolder, data.NPZ, data.Arrays, data.Concatenated):
        register(part)
    for name in (
        "Permuted", "Rotated", "Split", "SplitMNIST", "SplitCIFAR100", "SplitImageNet", "SplitCIFAR10",
        "CIFAR100Superclasses", "SplitTinyImageNet", "FiveDatasets",
    ):  # fmt: skip
        register(getattr(data, name))
    register(UserArrays)
    register(UserTasks)
    for name in ("LeNet", "FC1024", "BNNet", "GEMResNet18", "ResNet18", "ResNet50", "ResNet101"):
        register(getattr(networks, name))
    register(CustomNetwork, name="own")
    for name, initializer in (INITIALIZERS | {"stored": stored}).items():
        register(initializer, kind="initializer", name=name)
    for name in (
        "SupSup", "Transfer", "BatchE", "PSP", "SeparateHeads", "FineTuning", "UpperBound", "LowerBound", "HopSupSup",
        "PackNet", "WSN", "HAT", "ExSSNeT", "Piggyback",
    ):  # fmt: skip
        register(getattr(methods, name))
    for part in (scenarios.GG, scenarios.GNu, scenarios.GNs, scenarios.NNs):
        register(part)
    searches = {
        "one_shot": inference.OneShot,
        "binary": inference.Binary,
        "exhaustive": inference.Exhaustive,
        "descent": inference.Descent,
        "shortlist": inference.Shortlist,
        "recovery": Recovery,
    }
    for name, search in searches.items():
        register(search, name=name)
    for objective in (inference.entropy, inference.superfluous, inference.maximum):
        register(objective, kind="objective")
    for part in (optimizers.RMSprop, optimizers.Adam, optimizers.SGD):
        register(part)
