"""Supermasks in Superposition in JAX and Flax.

`restore` opens a trained run, `SupSup` begins one from Python, and `evaluate` measures one. `masks`, `networks`,
`methods` and `inference` are functions of arrays; `import supsup_jax` loads these alone, and what a run needs when it
is first asked for. `data`, `training`, `evaluation` and the rest are modules to import.
"""

from typing import TYPE_CHECKING, Any

from supsup_jax import inference, masks, methods, networks
from supsup_jax.errors import UserError

if TYPE_CHECKING:
    from supsup_jax.opening import SupSup, restore
    from supsup_jax.run import Run
    from supsup_jax.run_evaluation import evaluate

__version__ = "0.1.0"

__all__ = [
    "Run",
    "SupSup",
    "UserError",
    "__version__",
    "evaluate",
    "inference",
    "masks",
    "methods",
    "networks",
    "restore",
]

_LATER = {"Run": "run", "SupSup": "opening", "evaluate": "run_evaluation", "restore": "opening"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    import importlib

    return getattr(importlib.import_module(f"supsup_jax.{_LATER[name]}"), name)
