"""Supermasks in Superposition in JAX and Flax.

`masks`, `networks`, `methods` and `inference` are functions of arrays; `import supsup_jax` loads these alone.
`data`, `training`, `evaluation` and the rest are modules to import when they are needed.
"""

from supsup_jax import inference, masks, methods, networks
from supsup_jax.errors import UserError

__version__ = "0.1.0"

__all__ = ["UserError", "__version__", "inference", "masks", "methods", "networks"]
