"""Supermasks in Superposition in JAX and Flax.

`restore` opens a trained run, `SupSup` begins one from Python, and `evaluate` measures one; a script declares an
`Experiment` and hands it to `main`. A `Model` is what has been learned, as a pytree: `infer` and `alpha_gradient` take
it. `masks`, `networks`, `methods` and `inference` are functions of arrays; `import supsup_jax` loads these alone, and
what a run needs when it is first asked for. `data`, `training`, `evaluation` and the rest are modules to import.
"""

from typing import TYPE_CHECKING, Any

from supsup_jax import inference, masks, methods, networks
from supsup_jax.errors import UserError
from supsup_jax.inference import Binary, Exhaustive, OneShot, alpha_gradient, entropy, infer, maximum, superfluous
from supsup_jax.model import Model

if TYPE_CHECKING:
    from supsup_jax.cli.launch import main
    from supsup_jax.experiment import Experiment
    from supsup_jax.runs.evaluate import evaluate
    from supsup_jax.runs.opening import SupSup, restore
    from supsup_jax.runs.run import Run

__version__ = "0.1.0"

__all__ = [
    "Binary",
    "Exhaustive",
    "Experiment",
    "Model",
    "OneShot",
    "Run",
    "SupSup",
    "UserError",
    "__version__",
    "alpha_gradient",
    "entropy",
    "evaluate",
    "infer",
    "inference",
    "main",
    "masks",
    "maximum",
    "methods",
    "networks",
    "restore",
    "superfluous",
]

_LATER = {
    "Experiment": "experiment",
    "Run": "runs.run",
    "SupSup": "runs.opening",
    "evaluate": "runs.evaluate",
    "main": "cli.launch",
    "restore": "runs.opening",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    import importlib

    return getattr(importlib.import_module(f"supsup_jax.{_LATER[name]}"), name)
