"""Optional dependencies, and the extras of the package that install them."""

import importlib
import importlib.util
from typing import Any

from supsup_jax.errors import UserError, reason
from supsup_jax.system.progress import to_stderr

_MODULES = {
    "cluster": ("submitit",),
    "imagenet": ("grain", "simplejpeg"),
    "plots": ("matplotlib",),
    "tensorboard": ("tensorboardX",),
    "tfds": ("tensorflow_datasets", "array_record"),
    "torch": ("torch",),
}

_OF_RUNS = {"plots": "pictures", "tensorboard": "TensorBoard events"}


def is_installed(extra: str) -> bool:
    """Whether the modules of an extra are there; none is imported."""
    return all(importlib.util.find_spec(module) is not None for module in _MODULES[extra])


def require(extra: str, purpose: str) -> Any:
    """Imports the modules of an extra; returns the first one.

    Args:
        extra: its name.
        purpose: what requires it, the subject of the message.

    Raises:
        UserError: if one of them cannot be imported. The message names the extra.
    """
    try:
        modules = [importlib.import_module(module) for module in _MODULES[extra]]
    except ImportError as error:
        needed = " and ".join(_MODULES[extra])
        raise UserError(
            f"{purpose} requires {needed} ({reason(error)}); install with: pip install 'supsup_jax[{extra}]'"
        ) from error
    return modules[0]


def say_what_is_missing() -> None:
    """Says on stderr, in one line, what runs will not write since its extras are not installed."""
    if missing := [extra for extra in _OF_RUNS if not is_installed(extra)]:
        lacking = " and ".join(_OF_RUNS[extra] for extra in missing)
        install = f"pip install 'supsup_jax[{','.join(missing)}]'"
        to_stderr(f"{lacking} will not be written; to have them: {install}")
