"""A function of images as a program that JAX alone can run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export
from jaxtyping import Array

from supsup_jax.system import atomic

PLATFORMS = ("cpu", "cuda")
"""What an exported program runs on."""


def export(function: Callable[[Array], Any], image_shape: tuple[int, ...], path: Path) -> None:
    """Writes a function of one image, mapped over any number of them, as StableHLO (`jax.export`).

    Args:
        function: from a uint8 image to arrays.
        image_shape: `(height, width, channels)`.
        path: file to write; it is replaced whole.
    """
    number = jax_export.symbolic_shape(f"images, {', '.join(map(str, image_shape))}")
    program = jax.jit(lambda images: jax.lax.map(function, images))
    exported = jax_export.export(program, platforms=PLATFORMS)(jax.ShapeDtypeStruct(number, jnp.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, exported.serialize())
