"""Peak rates of the machine, which the floors of formulations are computed from."""

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

PRODUCTS = {
    "float32": ("float32", "highest"),
    "tf32": ("float32", "tensorfloat32"),
    "bfloat16": ("bfloat16", "default"),
}
"""The type of the matrices and the precision of their product. A CPU does not round to TensorFloat-32, a GPU does."""

ACCELERATED = "SUPSUP_BENCHMARK_ACCELERATED"
"""Environment variable that passes the result of `is_accelerated` to processes that measure."""


@functools.cache
def is_accelerated() -> bool:
    """Return whether JAX computes on a GPU or TPU on this machine.

    A separate process finds it: JAX would take memory of the GPU, and PyTorch's processes do without JAX, since both
    load libraries of CUDA.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    if ACCELERATED not in os.environ:
        code = "import jax; print(jax.default_backend() != 'cpu')"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        os.environ[ACCELERATED] = (ended.stdout.splitlines() or ["False"])[-1]
    return os.environ[ACCELERATED] == "True"


def fastest(call: Callable[[], Any]) -> float:
    """Return the shortest time of five calls, in seconds, after one call to warm up."""
    call()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def product_rate(size: int = 3000, dtype: str = "float32", precision: str = "highest") -> float:
    """Return the operations per second of a product of two square matrices.

    Args:
        size: the number of rows and columns.
        dtype: the type of the matrices.
        precision: the precision of the product, as in `jax.numpy.matmul`.
    """
    import jax
    import jax.numpy as jnp

    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    return 2 * size**3 / fastest(lambda: jax.block_until_ready(product(matrix)))


def sum_rate(length: int = 10**8) -> float:
    """Return the bytes per second that a sum of `length` float32 numbers reads."""
    import jax
    import jax.numpy as jnp

    vector, total = jnp.ones(length), jax.jit(jnp.sum)
    return 4 * length / fastest(lambda: jax.block_until_ready(total(vector)))


def copy_rate(length: int = 10**8) -> float:
    """Return the bytes per second that a copy of `length` float32 numbers reads and writes together."""
    import jax
    import jax.numpy as jnp

    vector, copy = jnp.ones(length), jax.jit(lambda x: -x)
    return 8 * length / fastest(lambda: jax.block_until_ready(copy(vector)))


def peak(products: Sequence[str] = ("float32",), smallest: bool = False) -> dict[str, float]:
    """Return this machine's peak rates per second: operations of matrix products, and bytes of a large sum.

    Args:
        products: precisions of the products, of `PRODUCTS`.
        smallest: whether the arrays are small, to check that it runs.
    """
    size, length = sizes(smallest)
    return {name: product_rate(size, *PRODUCTS[name]) for name in products} | {"bytes": sum_rate(length)}


def sizes(smallest: bool = False) -> tuple[int, int]:
    """Return the number of rows of the matrices, and the number of float32 numbers, that `peak` measures with."""
    if smallest:
        return 500, 10**6
    return (8192, 5 * 10**8) if is_accelerated() else (3000, 10**8)
