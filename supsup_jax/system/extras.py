"""Optional dependencies, and the package extras that install them."""

import importlib
import importlib.util
from typing import Any

from supsup_jax.errors import UserError, reason
from supsup_jax.system.progress import to_stderr

_MODULES = {
    "cluster": ("submitit",),
    "imagenet": ("grain", "simplejpeg"),
    "plots": ("matplotlib",),
    "safetensors": ("safetensors",),
    "tensorboard": ("tensorboardX",),
    "tfds": ("tensorflow_datasets", "array_record"),
    "torch": ("torch",),
}

_SETTINGS = {"plots": ", matplotlibrc or MPLBACKEND"}
"""Settings of the user that can make the import of an extra fail."""

_OPTIONAL_OUTPUTS = {"plots": "pictures", "tensorboard": "TensorBoard events"}


def is_installed(extra: str) -> bool:
    """Return whether the modules of an extra are installed, without importing them."""
    return all(importlib.util.find_spec(module) is not None for module in _MODULES[extra])


def require(extra: str, purpose: str) -> Any:
    """Import the modules of an extra and return the first one.

    Args:
        extra: the name of the extra.
        purpose: what requires it; the subject of the error message.

    Raises:
        UserError: if a module is missing or its import fails. The message names the extra or the module.
    """
    needed = " and ".join(_MODULES[extra])
    try:
        modules = [importlib.import_module(module) for module in _MODULES[extra]]
    except ImportError as error:
        raise UserError(
            f"{purpose} requires {needed} ({reason(error)}); install with: pip install 'supsup_jax[{extra}]'"
        ) from error
    except Exception as error:  # of any type: modules with compiled parts, such as protobuf, check their versions
        raise UserError(
            f"{purpose} requires {needed}, which cannot be imported; repair its installation"
            f"{_SETTINGS.get(extra, '')} ({reason(error)})"
        ) from error
    return modules[0]


def warn_missing() -> None:
    """Print to stderr, in one line, which outputs runs will not write because their extras are not installed."""
    if missing := [extra for extra in _OPTIONAL_OUTPUTS if not is_installed(extra)]:
        lacking = " and ".join(_OPTIONAL_OUTPUTS[extra] for extra in missing)
        install = f"pip install 'supsup_jax[{','.join(missing)}]'"
        to_stderr(f"{lacking} will not be written; to have them: {install}")
