"""The platform that JAX computes on, and checks that this machine has the one that environment variables select."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence

import jax

from supsup_jax.errors import UserError, reason

_SELECTING = {
    "JAX_PLATFORMS": "jax_platforms",
    "JAX_PLATFORM_NAME": "jax_platform_name",
    "JAX_DEFAULT_DEVICE": "jax_default_device",
}
"""The variables that select a platform, and the flags of JAX that they set."""

_RESTRICTING = (
    "PJRT_NAMES_AND_LIBRARY_PATHS",
    "JAX_CUDA_VISIBLE_DEVICES",
    "JAX_ROCM_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "TPU_VISIBLE_CHIPS",
)
"""Variables that make a platform fail if their value is wrong."""


def check() -> None:
    """Initialize every platform that JAX was told to use. Call this after `devices.use_all_cores` and `hosts.join`.

    JAX itself skips `cuda` on a machine without a GPU, if another platform follows in the list.

    Raises:
        UserError: if this machine does not have one of the platforms.
    """
    message = problem(_named("jax_platforms"))
    if message is not None:
        raise UserError(message)


def check_in_a_process() -> None:
    """Check the platforms in a separate process, which reserves no GPU memory; for the runs of a sweep.

    Raises:
        UserError: if this machine does not have one of the platforms.
    """
    if all(os.environ.get(name, "").lower() in ("", "cpu") for name in _SELECTING):
        return
    code = "import sys; from supsup_jax.system import platforms; sys.exit(platforms.problem(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *_named("jax_platforms")]
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if ended.returncode:
        raise UserError((ended.stderr.strip() or "JAX does not start").splitlines()[-1])


def use_cpu() -> None:
    """Make this process compute on the CPU, whatever was selected. Call this before JAX computes anything."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_platform_name", "")
    jax.config.update("jax_default_device", None)


def problem(platforms: Sequence[str] = ()) -> str | None:
    """Return in one line why JAX has no device to compute on, or `None` if it has one.

    Args:
        platforms: further platforms that must be available.
    """
    platform = None
    try:
        jax.devices()
        for platform in (*_named("jax_default_device"), *platforms):
            jax.devices(platform)
    except (RuntimeError, AssertionError, ValueError) as error:
        return _in_words(error, platform)
    return None


def _in_words(error: Exception, platform: str | None) -> str:
    text = str(error)
    why = reason(Exception(re.sub(r"\s*\((set|you may) .*", "", text, flags=re.DOTALL).rstrip(".")))
    if isinstance(error, AssertionError) or text.startswith("Unknown backend"):
        why = "JAX finds no device of this platform on this machine"
    failed = re.search(r"[Bb]ackend '?([^' ]+?)'?[.: ]", text)
    platform = platform or (failed[1] if failed else None)
    given = {flag: value for flag in _SELECTING.values() if (value := ",".join(_named(flag)))}
    blamed = [flag for flag, value in given.items() if platform in value.split(",")] or [*given]
    if blamed:
        named = " and ".join(f"{_variable(flag, given[flag])}={given[flag]}" for flag in blamed)
        return f"{named}: {why}; unset it, or set it to cpu"
    if restricted := [f"{name}={os.environ[name]}" for name in _RESTRICTING if name in os.environ]:
        return f"{' and '.join(restricted)}: {why}; correct it, or set JAX_PLATFORMS=cpu to compute on the CPU"
    return f"JAX has no device to compute on: {why}; repair its installation, or set JAX_PLATFORMS=cpu"


def _named(flag: str) -> list[str]:
    """Return the platforms that one of JAX's flags names, as the user wrote them."""
    value = jax.config.values.get(flag)
    return value.split(",") if isinstance(value, str) and value else []


def _variable(flag: str, value: str) -> str:
    """Return how the user set a flag: by an environment variable, or from Python."""
    (variable,) = (name for name, selected in _SELECTING.items() if selected == flag)
    return variable if os.environ.get(variable, "").lower() == value.lower() else f"jax.config {flag}"
