"""Supermasks in Superposition in JAX and Flax.

A script declares an `Experiment` from its parts and passes it to `main`. `restore` opens a trained run, `Run.new`
starts a run from Python, and `evaluate` measures a run. A `Model` holds what has been learned, as a pytree, and is the
argument of `infer` and `alpha_gradient`. `register` gives a custom part a name. `import supsup_jax` loads only `bank`,
`masks`, `networks`, `methods` and `inference`; other names load at their first use.
"""

from typing import TYPE_CHECKING, Any

from supsup_jax.system import startup as _startup  # noqa: F401 (it imports JAX, before the modules that use it)

# isort: split

from supsup_jax import bank, inference, masks, methods, networks
from supsup_jax.errors import UserError
from supsup_jax.inference import (
    Binary,
    Exhaustive,
    OneShot,
    Shortlist,
    alpha_gradient,
    entropy,
    infer,
    maximum,
    superfluous,
)
from supsup_jax.model import Model
from supsup_jax.registry import register

if TYPE_CHECKING:
    from supsup_jax import data, optimizers, scenarios
    from supsup_jax.cli.script import main
    from supsup_jax.experiment import Experiment, Training
    from supsup_jax.runs.evaluate import evaluate
    from supsup_jax.runs.opening import restore
    from supsup_jax.runs.run import Run

__version__ = "0.2.0"

__all__ = [
    "Binary",
    "Exhaustive",
    "Experiment",
    "Model",
    "OneShot",
    "Run",
    "Shortlist",
    "Training",
    "UserError",
    "__version__",
    "alpha_gradient",
    "bank",
    "data",
    "entropy",
    "evaluate",
    "infer",
    "inference",
    "main",
    "masks",
    "maximum",
    "methods",
    "networks",
    "optimizers",
    "register",
    "restore",
    "scenarios",
    "superfluous",
]

_LAZY = {
    "Experiment": "experiment",
    "Run": "runs.run",
    "Training": "experiment",
    "evaluate": "runs.evaluate",
    "main": "cli.script",
    "restore": "runs.opening",
}

_LAZY_PACKAGES = ("data", "optimizers", "scenarios")


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LAZY_PACKAGES:
        return importlib.import_module(f"supsup_jax.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"supsup_jax.{_LAZY[name]}"), name)
