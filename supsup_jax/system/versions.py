"""Versions of this package and of the packages that determine its numbers."""

import importlib.metadata

_PACKAGES = ("supsup_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def installed() -> dict[str, str]:
    """Return the versions by package; "unknown" in a checkout that is not installed."""
    return {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
