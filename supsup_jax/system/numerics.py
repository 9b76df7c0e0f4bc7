"""JAX's global flags that affect numbers: which of them this library sets, and which a run records.

Another library, or the environment, may have set any flag of JAX:

- Flags that determine types and random numbers have fixed values while this library computes: see `fixed` and `key`.
- Flags that only change how results are rounded are the user's choice, and a run records them: see `rounding`.
- Flags that check programs, such as `jax_numpy_rank_promotion` or `jax_debug_nans`, keep their values: this library
  passes their checks. Transfer guards apply only to its compiled programs: see `guarded`.

All other flags change no numbers.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import jax
from jaxtyping import Array, Integer, Key

_Function = TypeVar("_Function", bound=Callable[..., Any])

_ROUNDING = {
    "jax_custom_vjp3": False,
    "jax_default_matmul_precision": None,
    "jax_disable_jit": False,
    "jax_disable_most_optimizations": False,
    "jax_exec_time_optimization_effort": 0.0,
    "jax_memory_fitting_effort": 0.0,
    "jax_memory_fitting_level": "O2",
    "jax_optimization_level": "UNKNOWN",
    "jax_remat3": False,
    "jax_scan3": False,
    "jax_use_direct_linearize": True,
    "jax_use_magma": "auto",
}
"""The flags that change only how results are rounded, with JAX's defaults."""

# Options of XLA that change no numbers.
_HARMLESS_XLA_OPTIONS = ("--xla_dump", "--xla_force_host_platform_device_count", "--xla_gpu_cuda_data_dir")

_GUARDS = (
    "jax_transfer_guard_host_to_device",
    "jax_transfer_guard_device_to_device",
    "jax_transfer_guard_device_to_host",
)

_guards: ContextVar[tuple[str | None, ...]] = ContextVar("guards", default=())
"""The levels of the transfer guards before `fixed` was first entered."""


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """Compute with 32-bit types and one random number generator, whatever JAX's global flags are.

    The values are JAX's defaults, so with default flags nothing is compiled twice. Transfers between the host and
    devices are allowed, since this library's transfers are intended; see `guarded`.
    """
    token = _guards.set(_guards.get() or tuple(jax.config.values[name] for name in _GUARDS))
    with (
        jax.enable_x64(False),
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.softmax_custom_jvp(False),
        jax.debug_key_reuse(False),  # it reports a key reuse where a loop folds numbers into one key
        jax.transfer_guard("allow"),
    ):
        try:
            yield
        finally:
            _guards.reset(token)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Restore the user's transfer guards within `fixed`, for programs whose arguments are on the devices."""
    to_device, between_devices, to_host = _guards.get() or tuple(jax.config.values[name] for name in _GUARDS)
    with (
        jax.transfer_guard_host_to_device(to_device),
        jax.transfer_guard_device_to_device(between_devices),
        jax.transfer_guard_device_to_host(to_host),
    ):
        yield


def with_fixed_flags(function: _Function) -> _Function:
    """Decorate a function that computes: it runs inside `fixed`, and its 64-bit array arguments become 32-bit arrays.

    The function must not be a generator, which would leave the flags set between two of its values.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if jax.config.values["jax_enable_x64"]:
            arguments, named = jax.tree.map(_narrowed, (arguments, named))
        with fixed():
            return function(*arguments, **named)

    return cast(_Function, call)


def _narrowed(leaf: Any) -> Any:
    """Return a 64-bit array as a 32-bit array, and any other leaf unchanged."""
    if not isinstance(leaf, jax.Array) or str(leaf.dtype) not in ("float64", "int64", "uint64"):
        return leaf
    return leaf.astype(str(leaf.dtype).replace("64", "32"))


def key(seed: int | Integer[Array, ""]) -> Key[Array, ""]:
    """Return the random key of a seed, independent of `jax_default_prng_impl` and `jax_random_seed_offset`."""
    offset = jax.config.values.get("jax_random_seed_offset", 0)
    return jax.random.key(seed - offset if offset else seed, impl="threefry2x32")


def rounding() -> dict[str, Any]:
    """Return the flags that change how results are rounded and do not have their default value, as plain data by name.

    `XLA_FLAGS` is one of them.
    """
    values = {name: jax.config.values.get(name, default) for name, default in _ROUNDING.items()}
    values = {name: getattr(value, "name", value) for name, value in values.items()}
    found = {name: value for name, value in values.items() if value != _ROUNDING[name]}
    xla = [option for option in os.environ.get("XLA_FLAGS", "").split() if not option.startswith(_HARMLESS_XLA_OPTIONS)]
    return found | ({"XLA_FLAGS": " ".join(xla)} if xla else {})


def rounding_differs(recorded: Mapping[str, Any]) -> str:
    """Describe the flags that differ between a run and this process; return an empty string if there are none.

    Args:
        recorded: the result of `rounding` in the process that learned the run.
    """
    current = rounding()
    return ", ".join(
        f"{name} {recorded.get(name, 'unset')} (here {current.get(name, 'unset')})"
        for name in sorted(recorded.keys() | current.keys())
        if recorded.get(name) != current.get(name)
    )
